//! Every interleaving of a small case, searched on the real core.

use std::time::{Duration, Instant};

use kddm_core::id::{NodeId, ObjectId};
use kddm_core::message::RequestKind;
use serde::Serialize;

use crate::agent::Wish;
use crate::search::Limits;
use crate::views::Change;
use crate::world::{Action, Operation, Plan, World};

/// A named case to search.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is called, on the command line and in reports.
    pub name: String,
    /// The world at its beginning.
    pub plan: Plan,
}

/// What a search found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The case.
    pub name: String,
    /// Different states.
    pub states: usize,
    /// Steps taken from one to another.
    pub steps: usize,
    /// The longest path looked at, in steps.
    pub depth: usize,
    /// Time taken.
    pub seconds: f64,
    /// All states were seen, and none was bad.
    pub clean: bool,
    /// What was broken, if anything.
    pub broken: Option<String>,
    /// The steps that lead there.
    pub trace: Vec<String>,
    /// The same steps as choices in `kddm-sim model --explore`.
    pub choices: Vec<usize>,
}

/// Many times what any case of today has: a search that gets there says so.
const STATE_LIMIT: usize = 200_000_000;

/// Searches one case until all is seen, something is broken, or the limit is over.
pub fn search(case: &Case, limit: Duration) -> Report {
    let start = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let found =
        crate::search::search(&case.plan, threads, Limits { time: limit, states: STATE_LIMIT, takes_all_steps: false });
    Report {
        name: case.name.clone(),
        states: found.states,
        steps: found.steps,
        depth: found.depth,
        seconds: start.elapsed().as_secs_f64(),
        clean: found.complete,
        broken: found.broken,
        choices: choices(&case.plan, &found.path),
        trace: crate::trace::steps(&case.plan, found.path),
    }
}

/// For each step, its number among those that could have been taken.
fn choices(plan: &Plan, path: &[Action]) -> Vec<usize> {
    let mut world = World::new(plan);
    let mut actions = Vec::new();
    let choice = |action: &Action| {
        actions.clear();
        world.actions(&mut actions);
        world.apply(*action);
        actions.iter().position(|possible| possible == action)
    };
    path.iter().filter_map(choice).collect()
}

const OBJECT: ObjectId = ObjectId(0);

/// The kinds of operations, by the letter that stands for them in names of cases.
const KINDS: &[(char, Wish)] = &[
    ('r', Wish::Request(RequestKind::Get { existing: false })),
    ('e', Wish::Request(RequestKind::Get { existing: true })),
    ('w', Wish::Request(RequestKind::Grab { existing: false })),
    ('g', Wish::Request(RequestKind::Grab { existing: true })),
    ('t', Wish::Request(RequestKind::TryGrab)),
    ('x', Wish::Request(RequestKind::Remove)),
    ('f', Wish::Request(RequestKind::Flush { to: NodeId::NOBODY })),
    ('F', Wish::Request(RequestKind::Flush { to: NodeId(2) })),
    ('p', Wish::Fetch),
    ('a', Wish::Acquire),
];

/// A case by its name: `HOME:PLAN,PLAN,…[+c][+d][+n]`, a plan for each node (clients of one node
/// divided by `|`), a letter for each operation, digits switch to another object.
/// `+k` a node crashes, `+e` one is expelled and comes back with what it owned, and had to read, `+a` what is lost is accepted at some time after that, `+h` failures are counted anew once
/// all is whole, `+R1` objects have one replica, `+c` a cancel, `+d` a discarded change, `+n` a failed first touch, `+J3` node 3 joins meanwhile,
/// `+L1` node 1 leaves; `+S3` node 3 is a member and begins to share objects, `+U1` node 1 stops.
///
/// ```
/// let case = kddm_sim::model::case("3:wr,r,x+c").expect("it is well formed");
/// assert_eq!(case.plan.nodes, 3);
/// ```
pub fn case(name: &str) -> Option<Case> {
    let mut parts = name.split('+');
    let (homes, plans) = parts.next()?.split_once(':')?;
    let homes: Vec<NodeId> =
        homes.chars().map(|home| Some(NodeId(home.to_digit(10)? as u16))).collect::<Option<_>>()?;
    let mut clients = Vec::new();
    let mut nodes = 0;
    for plan in plans.split(',') {
        nodes += 1;
        for client in plan.split('|').filter(|client| !client.is_empty()) {
            clients.push((NodeId(nodes), operations(client)?));
        }
    }
    if homes.is_empty() || homes.iter().any(|home| home.0 == 0 || home.0 > nodes) {
        return None;
    }
    let changes = Vec::new();
    let (crashes, returns, replicas, acceptances, heals) = (0, 0, 0, 0, false);
    let (cancels, discards, failed_touches) = (0, 0, 0);
    let mut plan = Plan {
        nodes,
        homes,
        clients,
        cancels,
        discards,
        failed_touches,
        changes,
        crashes,
        returns,
        replicas,
        acceptances,
        heals,
    };
    for option in parts {
        match option {
            "c" => plan.cancels += 1,
            "d" => plan.discards += 1,
            "n" => plan.failed_touches += 1,
            "k" => plan.crashes += 1,
            "e" => plan.returns += 1,
            "a" => plan.acceptances += 1,
            "h" => plan.heals = true,
            "R1" => plan.replicas = 1,
            "R2" => plan.replicas = 2,
            _ => plan.changes.push(change(option, nodes)?),
        }
    }
    Some(Case { name: name.to_owned(), plan })
}

fn change(option: &str, nodes: u16) -> Option<Change> {
    let (letter, number) = option.split_at_checked(1)?;
    let node = number.parse().ok().filter(|node| (1..=nodes).contains(node)).map(NodeId)?;
    match letter {
        "J" => Some(Change::Join(node)),
        "L" => Some(Change::Leave(node)),
        "S" => Some(Change::Share(node)),
        "U" => Some(Change::Unshare(node)),
        _ => None,
    }
}

fn operations(letters: &str) -> Option<Vec<Operation>> {
    let mut object = OBJECT;
    let mut operations = Vec::new();
    for letter in letters.chars() {
        if let Some(digit) = letter.to_digit(10) {
            object = ObjectId(u64::from(digit));
        } else {
            let (_, wish) = KINDS.iter().find(|(of, _)| *of == letter)?;
            operations.push((object, *wish));
        }
    }
    Some(operations)
}

/// Every pair of kinds of operations on 3 nodes, after a write and a read elsewhere.
pub fn pairs() -> Vec<Case> {
    let letters = KINDS.iter().map(|(letter, _)| *letter);
    letters
        .clone()
        .flat_map(|a| letters.clone().map(move |b| (a, b)))
        .flat_map(|(a, b)| [format!("3:w{a},r{b},"), format!("1:w,{a},{b}"), format!("2:w{a},r,{b}+c")])
        .filter_map(|name| case(&name))
        .collect()
}

/// Every pair of a write, read, remove, try_grab and flush on 3 nodes of which one crashes, without a
/// replica and with one.
pub fn crash_pairs() -> Vec<Case> {
    let letters = || ['w', 'r', 't', 'x', 'f'].into_iter();
    let of_home = |home| letters().flat_map(move |a| letters().map(move |b| (home, a, b)));
    let both = |(home, a, b)| [format!("{home}:w{a},{b},+k"), format!("{home}:w{a},{b},+k+R1")];
    let names = (1..=3).flat_map(of_home).flat_map(both);
    names.filter_map(|name| case(&name)).collect()
}

/// Crashes with something else.
const CRASHES: &[&str] = &[
    "3:w,r,w+k+R1",
    "1:w,w,+k+c",
    "1:w,w,+k+c+R1",
    "2:w,r,+k+c+R1",
    "1:w,r,+k+L1",
    "1:w,r,+k+R1+L3",
    "2:w,r,+k+R1+L1",
    "3:w,r,+k+a",
    "1:w,w,+k+R1+h",
    "3:w,,+k+k+R1",
    "3:w,,+k+k+R1+h",
    "3:wx,r,w+k+k+R1",
    "1:w,x,w+k+R1",
    "3:w,r,+e",
    "3:w,r,+e+R1",
    "3:w,,+e+k",
    "2:wx,r+e",
    "2:w,r+e+e",
    "2:w,r+e+h",
    "2:w,r+e+a",
    "1:w,r+e+c",
    "1:ww,rr+e",
    "1:wx,r+e",
];

/// Small cases with a crash that find what larger ones do.
const SMALL_CRASHES: &[&str] = &[
    "3:w,r,+k",
    "2:wt,t,+k",
    "1:w,w,+k+R1",
    "2:w,r,+k+R1",
    "2:wx,w,+k+R1",
    "1:wx,x,+k+R1",
    "1:r,wx,+k+R1",
    "2:r,wx,+k+R1",
    "3:wf,x,+k+R1",
    "1:w,w,+k+c+R1",
    "2:w,r+k+a",
    "3:w,r,+k+h",
    "2:w,r+J2+k",
    "1:w,r+L1+k",
    "3:wx,,w+k+k+R1",
    "1:w,r+e",
    "2:w,r+e",
];

/// Cases that mean more than a pair.
pub fn named() -> Vec<Case> {
    [
        "3:ww,ww,ww",
        "1:wr,rw,ww",
        "1:wr,wr,wr",
        "3:wx,rw,rx",
        "1:wx,xw,rr",
        "2:wf,rf,wr",
        "3:wF,rw,rf",
        "1:wt,rt,rt",
        "3:tr,tw,tt",
        "2:ag,ex,pt",
        "3:w|r,r|w,w",
        "1:w|w,r|x,r",
        "2:r|t,t|w,rf",
        "3:w|f,r|x,x",
        "3:ww,rw,rx+c",
        "1:wt,rw,rw+c",
        "3:rw,we,rx+n",
        "2:te,ag,rr+n",
        "1:ww,rw,rw+d",
        "3:wf,rf,wx+c",
        "1:r,wwx,+c",
        "12:w1w,1w0w",
        "21:w1r,1w0r",
        "12:w1x0r,1w0x1r",
        "12:w|1w,r|1r",
        LATE_FLUSH,
    ]
    .iter()
    .chain(MEMBERSHIP)
    .chain(MEMBERSHIP_OF_THREE)
    .chain(CRASHES)
    .filter_map(|name| case(name))
    .collect()
}

/// The notice of a flush arrives where the ownership is again, and after another copy was given out.
const LATE_FLUSH: &str = "1:ww,rfr,w";

/// Joins and leaves in the middle of operations.
const MEMBERSHIP: &[&str] = &[
    "2:w,r+J2",
    "2:w,w+J2",
    "2:wx,r+J2",
    "2:wf,r+J2",
    "2:wt,t+J2",
    "1:w,r+L1",
    "1:w,w+L1",
    "1:wx,w+L1",
    "1:x,wr+L1",
    "1:wt,t+L1",
    "2:w,rw+L1",
    "1:r,wx+L1",
];

/// The same with a third node, which may be the owner, a sharer or the home meanwhile.
const MEMBERSHIP_OF_THREE: &[&str] = &[
    "3:w,r,+J3",
    "3:w,w,+J3",
    "3:w,x,+J3",
    "3:w,,r+J3",
    "3:wx,r,+J3",
    "3:wf,r,+J3",
    "1:w,r,+L1",
    "2:w,r,+L2",
    "3:w,r,+L1",
    "1:w,,x+L1",
    "1:wx,r,+L1",
    "3:w,rx,+L3",
    "3:w,,r+J3+L1",
    "2:w,,r+J3+L2",
    "3:wt,,t+S3",
    "3:wf,,r+S3",
    "3:wx,,r+S3",
    "3:w,r,r+S3",
    "3:w,,r+S3+c",
    "1:wx,r,+U1",
    "1:r,w,+U1",
    "12:w,1w,0w1r+S2",
];

/// Those of them that are small.
const SMALL_MEMBERSHIP_OF_THREE: &[&str] =
    &["3:w,,r+S3", "3:w,,w+S3", "3:,wx,r+S3", "2:w,r,+U2", "1:w,,r+U1", "3:w,r,+J3", "2:w,r,+L2"];

/// The cases that fit into a check of every change.
pub fn quick() -> Vec<Case> {
    let mut cases: Vec<Case> = pairs().into_iter().filter(|case| !case.name.ends_with("+c")).collect();
    let small = [
        "1:wr,r,w",
        "3:wx,r,x",
        "2:wf,rf,",
        "1:w,rt,t",
        "12:w1w,1w0w",
        "3:w|r,r|w,",
        "3:w,w,rx+c",
        "3:rw,we,+n",
        LATE_FLUSH,
    ];
    let joins_and_leaves = MEMBERSHIP.iter().chain(SMALL_MEMBERSHIP_OF_THREE).chain(SMALL_CRASHES);
    cases.extend(small.iter().chain(joins_and_leaves).filter_map(|name| case(name)));
    cases
}
