//! Services that take streams.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};

use super::{StreamReceiver, StreamSender, ends};
use crate::error::Error;
use crate::rpc::service::{Handler, Place};
use crate::rpc::{HandlerError, Request, Rpc, Service};

impl Rpc {
    /// Registers a service for streams. Its handler runs on a thread of its own, as a
    /// [blocking](Rpc::register_blocking) one: at most 16 at a time, others wait. When it returns, its direction is
    /// finished, or ends with its error; what the other side sends then is not taken.
    ///
    /// [`Request::is_cancelled`] tells that the other side has dropped its sender, or is gone.
    ///
    /// # Errors
    /// `AlreadyRegistered`, `BadName`, `Stopped`.
    pub fn register_stream<Q: DeserializeOwned + 'static, A: Serialize + 'static>(
        &self,
        name: &str,
        handler: impl Fn(&Request, &mut StreamReceiver<Q>, &mut StreamSender<A>) -> Result<(), HandlerError>
        + Send
        + Sync
        + 'static,
    ) -> Result<Service, Error> {
        self.serve(name, Place::Workers, move |request, mut receiver, mut sender| {
            let ran = catch_unwind(AssertUnwindSafe(|| handler(request, &mut receiver, &mut sender)));
            match ran {
                Ok(Ok(())) => {
                    // Whoever has gone meanwhile does not hear it.
                    let _it_may_be_gone = sender.finish();
                }
                Ok(Err(error)) => sender.fail(&error.to_string()),
                Err(_panic) => {
                    tracing::error!(from = request.from(), "a handler of a stream panicked");
                    sender.fail("the handler panicked");
                }
            }
        })
    }

    /// Registers a service for streams that are handed over whole: to a task, or to a thread of the application. The
    /// handler itself is *quick*, as one of [`register`](Rpc::register).
    ///
    /// ```
    /// # let nodes = kddm::Node::local_cluster(2)?;
    /// # let limit = std::time::Duration::from_secs(5);
    /// let _service = nodes[1].rpc().register_stream_owned("echo", |_, mut from, mut to| {
    ///     // tokio::spawn(async move { … }) where there is an executor
    ///     std::thread::spawn(move || -> Result<(), kddm::Error> {
    ///         while let Some(item) = from.receive().wait()? {
    ///             let _: &String = &item;
    ///             to.send(&item).wait()?;
    ///         }
    ///         to.finish()
    ///     });
    /// })?;
    /// let (mut to, mut from) = nodes[0].rpc().open_stream::<String, String>(2, "echo", limit)?;
    /// to.send(&"hello".into()).wait()?;
    /// assert_eq!(from.receive().wait()?.as_deref(), Some("hello"));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `register_stream`.
    pub fn register_stream_owned<Q: DeserializeOwned + 'static, A: Serialize + 'static>(
        &self,
        name: &str,
        handler: impl Fn(&Request, StreamReceiver<Q>, StreamSender<A>) + Send + Sync + 'static,
    ) -> Result<Service, Error> {
        self.serve(name, Place::Reader, move |request, receiver, sender| {
            // Both ends go with a panic, which the other side hears.
            let ran = catch_unwind(AssertUnwindSafe(|| handler(request, receiver, sender)));
            if ran.is_err() {
                tracing::error!(from = request.from(), "a handler of a stream panicked");
            }
        })
    }

    fn serve<Q: DeserializeOwned + 'static, A: Serialize + 'static>(
        &self,
        name: &str,
        place: Place,
        run: impl Fn(&Request, StreamReceiver<Q>, StreamSender<A>) + Send + Sync + 'static,
    ) -> Result<Service, Error> {
        let runtime = self.node.runtime();
        let (engine, runtime) = (Arc::downgrade(&runtime.rpc), Arc::downgrade(runtime));
        let handler = Handler::Stream(Box::new(move |request, flow| {
            let Some(engine) = engine.upgrade() else { return };
            let (sender, receiver) = ends(&engine, &runtime, &flow);
            run(request, receiver, sender);
        }));
        self.add(name, place, handler)
    }
}
