//! How what waits for one watcher of a set is sent to it. Whoever has brought it does so, where nothing else is on its way
//! there: that costs no hand-off. Else the thread of the watch does, which sends together what has come meanwhile.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::Error;
use crate::rpc::{RpcError, StreamReceiver, StreamSender};
use crate::runtime::outbox::{BATCH, Batch, Outbox};

/// For how long nothing was sent to a watcher to whom whoever puts sends by itself. What comes sooner is left to the thread
/// of the watch: sending takes some microseconds, and whoever puts again and again is not to pay them for each.
///
/// Of each watcher by itself, though several share a connection, and whoever puts by turns in many watched sets sends for each put:
/// what is left to a thread is sent together for its own watcher alone, and to wake the sleeping thread of another one costs whoever
/// puts as much or more (docs/numbers.md). So all that bounds it is `SENT_AT_ONCE` for each set.
const QUIET: Duration = Duration::from_micros(50);

struct Sending {
    /// Until the watch has ended.
    to: Option<StreamSender<Batch>>,
    /// Taken, and not sent yet: it goes first.
    unsent: Option<Batch>,
    /// When something was sent last.
    last: Option<Instant>,
}

/// See the module. What is taken is sent before anybody else takes something: it comes in the order in which it waited.
struct Delivery {
    outbox: Arc<Outbox>,
    sending: Mutex<Sending>,
}

/// Woken without locks by whoever has brought something.
struct Brought(Weak<Delivery>);

impl Wake for Brought {
    fn wake(self: Arc<Self>) {
        if let Some(delivery) = self.0.upgrade()
            && !delivery.sends_at_once()
        {
            delivery.outbox.tell_thread();
        }
    }
}

impl Delivery {
    fn begin(outbox: &Arc<Outbox>, is_whole: bool, to: StreamSender<Batch>) -> Arc<Delivery> {
        let sending = Sending { to: Some(to), unsent: Some(outbox.begins(is_whole)), last: None };
        Arc::new(Delivery { outbox: Arc::clone(outbox), sending: Mutex::new(sending) })
    }

    /// From now on what is brought may be sent by whoever has brought it.
    fn is_open(self: &Arc<Self>) {
        self.outbox.is_sent_by(Waker::from(Arc::new(Brought(Arc::downgrade(self)))));
    }

    /// Sends what there is on the thread that has brought it, which waits for nobody. False if that is left to the thread of
    /// the watch: somebody sends already, or something waits to be taken, or much is to be sent, at once or one after the other.
    fn sends_at_once(&self) -> bool {
        let Some(mut sending) = self.sending.try_lock() else { return false };
        let Sending { to, unsent, last } = &mut *sending;
        let Some(to) = to else { return true };
        if unsent.is_some() || last.is_some_and(|last| last.elapsed() < QUIET) {
            return false;
        }
        let Some(batch) = self.outbox.take() else { return true };
        *last = Some(Instant::now());
        if to.send_if_idle(&batch) {
            return batch.news.len() < BATCH;
        }
        *unsent = Some(batch);
        false
    }

    /// Sends what is to be sent next, by the thread of the watch. False if there is nothing.
    fn sends_next(&self) -> Result<bool, Error> {
        let mut sending = self.sending.lock();
        let Sending { to, unsent, last } = &mut *sending;
        let Some(to) = to else { return Ok(false) };
        let Some(batch) = unsent.take().or_else(|| self.outbox.take()) else { return Ok(false) };
        // As long as the watcher takes nothing, what is newer takes the place of what is older.
        while let Err(error) = to.send(&batch).wait() {
            if !matches!(error, Error::Rpc(RpcError::Idle { .. })) {
                return Err(error);
            }
        }
        *last = Some(Instant::now());
        Ok(true)
    }

    /// Nobody sends any more, whoever knows it still.
    fn end(&self, why: Result<(), Error>) {
        let to = self.sending.lock().to.take();
        if let (Err(error), Some(to)) = (why, to) {
            to.fail(&error.to_string());
        }
    }

    /// What the thread of the watch does until it is over.
    fn send_all(self: &Arc<Self>, from: &mut StreamReceiver<()>) -> Result<(), Error> {
        let outbox = &self.outbox;
        // Where the set ends, or this node, nothing begins.
        if let Some(error) = outbox.has_ended() {
            return Err(error);
        }
        self.sends_next()?;
        self.is_open();
        let waker = Waker::from(Arc::clone(outbox));
        let mut gone = from.receive();
        loop {
            // First, so that nothing that is told from here on is slept over.
            outbox.looks();
            match Pin::new(&mut gone).poll(&mut Context::from_waker(&waker)) {
                Poll::Pending => {}
                Poll::Ready(Err(Error::Rpc(RpcError::Idle { .. }))) => {
                    gone = from.receive();
                    continue;
                }
                Poll::Ready(_) => return Ok(()),
            }
            if !self.sends_next()? {
                if let Some(error) = outbox.has_ended() {
                    return Err(error);
                }
                outbox.wait();
            }
        }
    }
}

/// Until the watcher is gone, or the set.
pub(super) fn serve(outbox: &Arc<Outbox>, is_whole: bool, mut from: StreamReceiver<()>, to: StreamSender<Batch>) {
    let delivery = Delivery::begin(outbox, is_whole, to);
    let ended = delivery.send_all(&mut from);
    delivery.end(ended);
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use kddm_core::Main;
    use kddm_core::id::ObjectId;

    use super::*;
    use crate::Node;
    use crate::rpc::Service;
    use crate::runtime::feed::{Feed, News, Owned, Since};
    use crate::runtime::outbox::{AHEAD, OUTBOX_LIMIT};
    use crate::runtime::turn::ToWake;

    const LIMIT: Duration = Duration::from_secs(60);

    /// A watch whose thread is not there yet.
    struct Watch {
        feed: Feed,
        delivery: Arc<Delivery>,
        from: StreamReceiver<()>,
        watcher: Watcher,
        _running: (Service, Vec<Node>),
    }

    struct Watcher {
        hears: StreamReceiver<Batch>,
        _keeps: StreamSender<()>,
    }

    fn watch(only: Option<u64>) -> Watch {
        let nodes = Node::local_cluster(2).expect("a cluster");
        let (taken, takes) = channel();
        let service = nodes[1].rpc().register_stream_owned::<Batch, ()>("hear", move |_, hears, keeps| {
            let _it_waits = taken.send(Watcher { hears, _keeps: keeps });
        });
        let service = service.expect("nobody else has registered it");
        let (to, from) = nodes[0].rpc().open_stream(nodes[1].id(), "hear", LIMIT).expect("it opens");
        let feed = Feed::new(&Arc::default());
        feed.walked();
        let (outbox, is_whole) = feed.join(Since::Now, only).expect("it is not over");
        let delivery = Delivery::begin(&outbox, is_whole, to);
        assert!(matches!(delivery.sends_next(), Ok(true)));
        delivery.is_open();
        let mut watcher = takes.recv().expect("it is served");
        assert_eq!(watcher.hear().begins, Some(true));
        Watch { feed, delivery, from, watcher, _running: (service, nodes) }
    }

    impl Watcher {
        fn hear(&mut self) -> Batch {
            self.hears.receive().wait_for(LIMIT).expect("it was told").expect("there is more")
        }

        fn news(&mut self) -> Vec<News> {
            self.hear().news.into_iter().map(|(news, _)| news).collect()
        }
    }

    impl Watch {
        /// Something was sent just now, or long ago.
        fn is_quiet(&self, is_quiet: bool) {
            self.delivery.sending.lock().last = (!is_quiet).then(|| Instant::now() + LIMIT);
        }

        /// Whether all that was taken was sent at once. Else somebody else was at the connections for a moment, and what the
        /// thread would do is done here.
        fn is_sent(&self) -> bool {
            let is_sent = self.delivery.sending.lock().unsent.is_none();
            assert!(is_sent || matches!(self.delivery.sends_next(), Ok(true)));
            is_sent
        }
    }

    fn put(object: u64, version: u64) -> News {
        News::Put { object, tenure: 1, version }
    }

    fn is_put(feed: &Feed, object: u64, version: u64) {
        let owned = Owned { tenure: 1, born: 1, version };
        feed.looked_at(ObjectId(object), Some(owned), Main::None, false, &mut ToWake::default());
    }

    #[test]
    fn whoever_brings_something_sends_it_and_leaves_what_follows_at_once_to_the_thread() {
        let mut watch = watch(None);
        let mut at_once = 0;
        for version in 0..100 {
            watch.is_quiet(true);
            is_put(&watch.feed, 1, version);
            at_once += u64::from(watch.is_sent());
            assert_eq!(watch.watcher.news(), [put(1, version)]);
        }
        assert!(at_once > 50, "{at_once}");
        watch.delivery.outbox.looks();
        let is_told = || watch.delivery.outbox.waiting.lock().is_told;
        assert!(!is_told());
        watch.is_quiet(false);
        is_put(&watch.feed, 2, 1);
        assert!(is_told(), "it is the thread's");
        watch.is_quiet(true);
        let sends = watch.delivery.sending.lock();
        is_put(&watch.feed, 3, 1);
        drop(sends);
        is_put(&watch.feed, 4, 1);
        watch.is_sent();
        assert_eq!(watch.watcher.news(), [put(2, 1), put(3, 1), put(4, 1)], "together, by the next who may send");
        assert!(matches!(watch.delivery.sends_next(), Ok(false)), "nothing is left to the thread");
    }

    /// One that takes nothing holds nobody up who puts, and has everything in its order: what is put while something older
    /// waits is not sent before that.
    #[test]
    fn what_waits_is_sent_first_and_no_put_waits_for_that() {
        let Watch { feed, delivery, mut from, mut watcher, _running } = watch(None);
        let mut sent = 0;
        while delivery.sending.lock().unsent.is_none() {
            delivery.sending.lock().last = None;
            is_put(&feed, sent, 1);
            sent += 1;
        }
        for object in 0..OUTBOX_LIMIT as u64 + 7 {
            delivery.sending.lock().last = None;
            is_put(&feed, object, 2);
        }
        let mut expected: Vec<News> = (0..sent).map(|object| put(object, 1)).collect();
        expected.extend((0..OUTBOX_LIMIT as u64).map(|object| put(object, 2)));
        expected.push(News::Skipped { count: 7 });
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| delivery.send_all(&mut from));
            let mut heard = Vec::new();
            while heard.len() < expected.len() {
                heard.append(&mut watcher.news());
            }
            assert!(heard == expected);
            for version in 3..200 {
                is_put(&feed, 1, version);
            }
            let mut last = 2;
            while last < 199 {
                for news in watcher.news() {
                    let News::Put { object: 1, version, .. } = news else { panic!("{news:?}") };
                    assert!(version > last, "{version} behind {last}");
                    last = version;
                }
            }
            drop(watcher);
            thread.join().expect("it ends with its watcher").expect("that is no error");
        });
        delivery.end(Ok(()));
        is_put(&feed, 1, 200);
    }

    /// Whoever sends by itself leaves the thread asleep; it is woken all the same to say how far the watch has come.
    #[test]
    fn a_watch_of_one_object_whose_puts_are_sent_at_once_hears_how_far_it_is() {
        let mut watch = watch(Some(1));
        watch.is_quiet(true);
        watch.delivery.outbox.looks();
        is_put(&watch.feed, 1, 1);
        watch.is_sent();
        assert_eq!(watch.watcher.news(), [put(1, 1)]);
        (0..AHEAD).for_each(|version| is_put(&watch.feed, 2, version));
        assert!(watch.delivery.outbox.waiting.lock().is_told);
        assert!(matches!(watch.delivery.sends_next(), Ok(true)));
        let Batch { news, upto, .. } = watch.watcher.hear();
        assert!(news.is_empty() && upto >= AHEAD, "{upto}");
    }
}
