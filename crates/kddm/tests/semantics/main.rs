//! The semantic cases of KDDM, by their numbers. Each is one function over seats and runs twice: on
//! nodes of this process, and on nodes in processes of their own, over TCP. Those that do not look at the
//! messages of the protocol run a third time, in programs that are attached to nodes.

#[path = "../seat/mod.rs"]
#[allow(dead_code, reason = "shared with other tests, which use other parts of it")]
mod seat;

mod first_touch;
mod flush;
mod ownership;
mod readers_and_writers;
mod removal;
mod sets;

/// In a process that a case has started, this is the seat; else it is an empty test.
#[test]
fn seat_process() {
    seat::process::serve_if_asked();
}

/// Makes two tests of each case, or three: the last is for attached programs.
macro_rules! cases {
    ($($case:ident => $local:ident, $processes:ident $(, $attached:ident)?;)*) => {$(
        #[test]
        fn $local() {
            $case(crate::seat::Place::Local);
        }

        #[test]
        fn $processes() {
            $case(crate::seat::Place::Processes);
        }

        $(#[test]
        fn $attached() {
            $case(crate::seat::Place::Attached);
        })?
    )*};
}
pub(crate) use cases;
