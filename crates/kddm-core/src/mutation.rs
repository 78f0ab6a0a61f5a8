//! Deliberate faults: a search that finds none of them would show nothing. `docs/testing.md` tells
//! which search finds which.
//!
//! They exist only in a build with `--cfg kddm_mutation`; in any other one [`mutated`] is `false` when
//! it is compiled, and nothing of this is left. One build has all of them, and does one at a time.

#[cfg(kddm_mutation)]
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

macro_rules! mutations {
    ($(#[doc = $what:literal] $mutation:ident = $name:literal,)+) => {
        /// What may be done wrongly.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mutation {
            $(#[doc = $what] $mutation,)+
        }

        #[cfg(kddm_mutation)]
        impl Mutation {
            /// All of them: each with its name, and what it does.
            pub const ALL: &[(Mutation, &str, &str)] = &[$((Mutation::$mutation, $name, $what),)+];
        }
    };
}

mutations! {
    /// An owner upgrades and tells no sharer.
    SkipInvalidation = "skip_invalidation",
    /// A sharer acks while its threads still read.
    AckBeforeReadersLeave = "ack_before_readers_leave",
    /// A sharer acks, and keeps its copy.
    KeepInvalidatedCopy = "keep_invalidated_copy",
    /// A copy is given out, and its holder is not noted.
    ForgetSharer = "forget_sharer",
    /// An owner serves others while acks are owed.
    ServeWithAcksOwed = "serve_with_acks_owed",
    /// An own grab is granted while acks are owed.
    WriteWithAcksOwed = "write_with_acks_owed",
    /// Write access for a reader, although there are copies elsewhere.
    WriteBesideCopies = "write_beside_copies",
    /// A copy is read whose ack is only held back by its readers.
    ReadBesideLateAck = "read_beside_late_ack",
    /// A copy is given out while a local thread writes.
    DataUnderWriter = "data_under_writer",
    /// Ownership leaves while local threads read.
    TransferUnderReaders = "transfer_under_readers",
    /// Ownership leaves while a local thread writes: the bytes are stale.
    TransferUnderWriter = "transfer_under_writer",
    /// Ownership travels without its copy set: the new owner awaits no ack.
    ForgetCopySet = "forget_copy_set",
    /// Acks that come before the ownership are not counted.
    IgnoreEarlyAcks = "ignore_early_acks",
    /// Ownership moves, and the tenure stays.
    ReuseTenure = "reuse_tenure",
    /// A removal ends, and its tenure may be given out again.
    ForgetFloor = "forget_floor",
    /// A shard is handed over without its floor.
    ForgetFloorAtHandOver = "forget_floor_at_hand_over",
    /// A home says which objects there are before it has heard what others have.
    ScanTooEarly = "scan_too_early",
    /// Ownership moves, and who waits stays behind.
    LeaveQueueBehind = "leave_queue_behind",
    /// A request that waits for the end of a removal is lost.
    LoseRequestAtRemoval = "lose_request_at_removal",
    /// A request that is parked at the home is lost when the owner is known.
    LoseParkedRequest = "lose_parked_request",
    /// What is parked at a home is lost when its shard moves.
    LoseParkedAtHandOver = "lose_parked_at_hand_over",
    /// The home does not note whom it told to create an object that a try_grab asked for.
    CreateTwice = "create_twice",
    /// The home creates an object whose removal is not over.
    CreateDuringRemoval = "create_during_removal",
    /// The home forgets that an owner has announced itself.
    ForgetOwner = "forget_owner",
    /// The home believes an owner that is not the newest.
    BelieveOlderOwner = "believe_older_owner",
    /// A removal is over with the first ack.
    RemoveWithoutAcks = "remove_without_acks",
    /// A home that is told of a removal keeps its own copy.
    KeepHomesCopy = "keep_homes_copy",
    /// A home that passes the news of a removal on acks it, too.
    AckRemovalTwice = "ack_removal_twice",
    /// A node that waits with a remove does it when it gets the ownership, and the request goes on.
    RemoveTwice = "remove_twice",
    /// A ghost stays when the new owner has confirmed.
    KeepGhost = "keep_ghost",
    /// The bytes of a ghost count as those of the same version that arrives.
    TrustGhost = "trust_ghost",
    /// A late notice of a flush strikes a newer copy.
    LateFlushStrikes = "late_flush_strikes",
    /// A refusal of an older wish is taken for that of this one.
    TrustOlderRefusal = "trust_older_refusal",
    /// A sharer drops a copy that its threads read when a try_grab asks for it.
    DropHeldCopy = "drop_held_copy",
    /// An owner serves others while it asks sharers for a try_grab.
    ServeWhileAsking = "serve_while_asking",
    /// A try_grab succeeds although a sharer holds the object.
    TryGrabHeld = "try_grab_held",
    /// A node forwards by a hint that is no newer than the one the request followed.
    ForwardByOlderHint = "forward_by_older_hint",
    /// A shard is handed over before its directory.
    ShardBeforeDirectory = "shard_before_directory",
    /// The word of an older placement counts for this one.
    AcceptOldPlacement = "accept_old_placement",
    /// A placement holds for a node before all others have said so.
    HoldTooEarly = "hold_too_early",
    /// Who does not share any more is served.
    ServeWhoLeft = "serve_who_left",
    /// Acks are awaited from those who share no more.
    AwaitWhoLeft = "await_who_left",
    /// A leaving node says that it has nothing while it owns objects.
    LeaveWithLastCopy = "leave_with_last_copy",
    /// A flush gives the last copy to a node that is about to leave.
    FlushToLeaving = "flush_to_leaving",
    /// A put is done before its replicas have it.
    PutWithoutReplica = "put_without_replica",
    /// Ownership goes to a replica, and nobody takes its place.
    LeaveReplicaBehind = "leave_replica_behind",
    /// An object moves before its replicas are made.
    MoveUnsettled = "move_unsettled",
    /// A put is done while a replica that is to go may be there still, and is older.
    ForgetLeaving = "forget_leaving",
    /// Of several copies the oldest one becomes the object.
    PromoteOldest = "promote_oldest",
    /// What nobody has never existed, however many members were lost.
    ForgetFailures = "forget_failures",
    /// A former owner's bytes become the object, although the new owner had it and was lost.
    TrustGhostOfLost = "trust_ghost_of_lost",
    /// A home answers before all have said what they have.
    AnswerTooEarly = "answer_too_early",
    /// A copy that has become the object is seen before it has its replicas.
    ShowHalfPut = "show_half_put",
    /// An owner keeps what others asked for in the epoch before.
    KeepForeignQueue = "keep_foreign_queue",
    /// An ack that a reader held back is sent in a new epoch, too.
    TrustDeferredAck = "trust_deferred_ack",
    /// A removal that a new epoch cuts short is asked for again.
    RemoveAgain = "remove_again",
    /// Nobody tells a replica that its owner does not know of it.
    KeepOrphans = "keep_orphans",
    /// Losses that are not remembered one by one have taken nothing.
    ForgetOldLosses = "forget_old_losses",
    /// A set that is younger than a loss counts as one that was there.
    ForgetBirth = "forget_birth",
    /// A home says that an object is gone before all who may have a copy have dropped it.
    EndUnheard = "end_unheard",
    /// That a loss is accepted ends an object that is not lost.
    AcceptWhatIsThere = "accept_what_is_there",
    /// What a node owned that was expelled becomes the object, although the directory was lost since then.
    TrustOfferOfBroken = "trust_offer_of_broken",
    /// A member that is back vouches for what another home has decided that was lost.
    TakeAnyLossForItsOwn = "take_any_loss_for_its_own",
    /// What a home knew that is back counts as all there is to know, though another one has answered since and is lost.
    TakeWhatWasKnownForAll = "take_what_was_known_for_all",
    /// What a node owned that was expelled becomes the object, although a newer owner is known.
    TrustOlderOffer = "trust_older_offer",
    /// What was removed comes back where a set rolls back.
    RollBackRemoved = "roll_back_removed",
    /// An owner takes any read copy of a former life of its tenure for the newest.
    TrustOldCopy = "trust_old_copy",
    /// An owner finds that a read copy of a former life is the newest, and does not note who has it.
    ForgetRevalidated = "forget_revalidated",
    /// An owner finds that a read copy of a former life is the newest, although a local thread may write.
    RevalidateUnderWriter = "revalidate_under_writer",
    /// What is known of a member counts for a later life that has its number.
    TakeNumberForLife = "take_number_for_life",
    /// An owner does not ask again for the acks that it is owed.
    ForgetToAskAgain = "forget_to_ask_again",
    /// A removal in one step (L12) forgets that others have copies.
    RemoveBesideCopies = "remove_beside_copies",
    /// A removal in one step forgets that acks are owed.
    RemoveWithAcksOwed = "remove_with_acks_owed",
    /// A removal in one step goes on while access is being asked back.
    RemoveWhileAskedBack = "remove_while_asked_back",
    /// A node that does not own an object removes its own copy in one step, and no more.
    RemoveUnowned = "remove_unowned",
}

/// No mutation; the others are their number plus one.
#[cfg(kddm_mutation)]
static CHOSEN: AtomicU8 = AtomicU8::new(0);

#[cfg(kddm_mutation)]
static APPLIED: AtomicU64 = AtomicU64::new(0);

/// Does this mutation from now on, or none, in the whole process.
#[cfg(kddm_mutation)]
pub fn choose(mutation: Option<Mutation>) {
    CHOSEN.store(mutation.map_or(0, |mutation| mutation as u8 + 1), Ordering::Relaxed);
    APPLIED.store(0, Ordering::Relaxed);
}

/// How often it was done since it was chosen: one that never is shows nothing.
#[cfg(kddm_mutation)]
pub fn applied() -> u64 {
    APPLIED.load(Ordering::Relaxed)
}

/// Whether to do this wrongly. Asked last, where it makes a difference.
#[cfg(kddm_mutation)]
pub(crate) fn mutated(mutation: Mutation) -> bool {
    let chosen = CHOSEN.load(Ordering::Relaxed) == mutation as u8 + 1;
    if chosen {
        APPLIED.fetch_add(1, Ordering::Relaxed);
    }
    chosen
}

/// Nothing is done wrongly on purpose.
#[cfg(not(kddm_mutation))]
pub(crate) const fn mutated(_: Mutation) -> bool {
    false
}
