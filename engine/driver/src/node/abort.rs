//! A failed assertion ends the process.
//!
//! Runtimes catch the panic of a task and go on with the others. A data thread that has lost one of its tasks would
//! go on half: clients would wait for ever, and peers would see a node that is alive. A process that ends is seen at
//! once, the peer takes over, and what is on disk is what the engine's invariants left there.

use std::io::Write as _;

/// Ends the process when the thread unwinds past it.
#[derive(Debug)]
pub(crate) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The panic's message is out already. Nobody can be told if even this fails.
            let _ = writeln!(
                std::io::stderr(),
                "evenkeel: an invariant is broken, the process ends; the peers take over"
            );
            std::process::abort();
        }
    }
}

/// A task of the data thread.
pub(crate) fn spawn<F: Future<Output = ()> + 'static>(task: F) -> tokio::task::JoinHandle<()> {
    tokio::task::spawn_local(async move {
        let _abort = AbortOnPanic;
        task.await;
    })
}
