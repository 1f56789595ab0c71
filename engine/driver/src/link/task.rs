//! Tasks of the data thread that end with whoever started them, and quinn's runtime made of such tasks.

use std::{future::Future, io, net::UdpSocket, pin::Pin, sync::Arc, time::Instant};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use tokio::task::JoinHandle;

use crate::node::abort;

/// A task that is cancelled when this is dropped.
#[derive(Debug)]
pub(super) struct Task(Option<JoinHandle<()>>);

/// Starts a task. A panic in it ends the process: a data thread without one of its tasks would live on half.
pub(super) fn spawn(task: impl Future<Output = ()> + 'static) -> Task {
    Task(Some(abort::spawn(task)))
}

impl Task {
    /// Lets it run to its end by itself.
    pub(super) fn detach(mut self) {
        self.0 = None;
    }

    /// Whether it has come to its end.
    pub(super) fn has_ended(&self) -> bool {
        self.0.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&mut self) {
        if let Some(handle) = &mut self.0 {
            // A cancelled task has ended as well; a panic does not come here.
            let _ = handle.await;
            self.0 = None;
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.abort();
        }
    }
}

/// quinn's tasks beside ours, on the same queue.
#[derive(Debug)]
pub(super) struct LocalRuntime;

impl Runtime for LocalRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        abort::spawn(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}
