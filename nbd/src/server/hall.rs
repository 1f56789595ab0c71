//! The data side: all established connections of one thread, and the memory that they share.
//!
//! Rule for memory: payload and read data lie within a share of each connection ([`Limits::share_bytes`]) and a
//! pool that all share ([`Limits::pool_bytes`]). A connection that finds the pool exhausted waits. If it has
//! waited for [`Limits::stall_time`], every connection that holds memory of the pool, and whose client owes bytes
//! (the rest of a payload, or the reading of replies) and has moved less than [`Limits::stall_bytes`] of them in
//! all that time, is closed. While nobody waits, a slow client may take all the time it wants.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
};

use tokio::sync::Notify;

use super::{connection::Connection, door::Handover};
use crate::{
    device::{BlockDevice, Client, ClientId, MapContext},
    limits::Limits,
    session::{Debt, EXTENTS_BYTES, PayloadMemory},
};

/// How one debt of a client stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Standing {
    debt: Debt,
    /// How often there was a debt after there was none.
    begun: u64,
}

impl Standing {
    /// Whether the same debt has lasted since `before`, and less than `least` bytes of it were paid.
    fn stalls(&self, before: &Self, least: u64) -> bool {
        let lasts = self.debt.owed && before.debt.owed && self.begun == before.begun;
        lasts && self.debt.paid_bytes - before.debt.paid_bytes < least
    }
}

/// Follows one debt of a client.
#[derive(Debug, Default)]
pub(super) struct Account(Cell<Standing>);

impl Account {
    pub(super) fn update(&self, debt: Debt) {
        let Standing { debt: before, begun } = self.0.get();
        let begins = debt.owed && !before.owed;
        self.0.set(Standing { debt, begun: begun + u64::from(begins) });
    }
}

/// What the hall sees of one connection.
#[derive(Debug)]
pub(super) struct Presence {
    pub(super) client: Rc<Client>,
    /// The rest of a payload.
    pub(super) payload: Account,
    /// The reading of replies.
    pub(super) replies: Account,
    /// Set to close the connection at once.
    pub(super) cut: Cell<bool>,
}

impl Presence {
    fn standings(&self) -> [Standing; 2] {
        [self.payload.0.get(), self.replies.0.get()]
    }
}

/// How everybody stood when somebody began to wait for memory.
#[derive(Debug)]
pub(super) struct Snapshot(Vec<(ClientId, [Standing; 2])>);

/// The established connections of one thread.
#[derive(Debug)]
pub struct Hall {
    pub(super) limits: Limits,
    pub(super) memory: PayloadMemory,
    present: RefCell<BTreeMap<ClientId, Rc<Presence>>>,
    closing: RefCell<Option<Arc<str>>>,
    left: Notify,
}

impl Hall {
    /// An empty hall.
    ///
    /// # Panics
    /// If the pool could not hold two requests of the largest size: nothing would be sure to go on.
    #[must_use]
    pub fn new(limits: Limits) -> Rc<Self> {
        let extents = MapContext::ALL.len() * EXTENTS_BYTES;
        let largest = extents.max(limits.payload_bytes as usize);
        assert!(limits.pool_bytes >= 2 * largest, "the pool holds at least two of the largest requests");
        Rc::new(Self {
            memory: PayloadMemory::new(&limits),
            limits,
            present: RefCell::default(),
            closing: RefCell::default(),
            left: Notify::new(),
        })
    }

    /// The memory for payload. Reads are counted against its budget by the server; a device allocates the data
    /// of reads outside of it, so that nothing is counted twice.
    #[must_use]
    pub fn memory(&self) -> &PayloadMemory {
        &self.memory
    }

    /// Connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.present.borrow().len()
    }

    /// Serves one connection on a device until it ends. The future stays on this thread.
    pub async fn serve(self: Rc<Self>, handover: Handover, device: Rc<dyn BlockDevice>) {
        let client = Client::new(handover.id, handover.identity.clone());
        let export = handover.export().to_owned();
        let identity = handover.identity.clone();
        let presence = Rc::new(Presence {
            client: Rc::clone(&client),
            payload: Account::default(),
            replies: Account::default(),
            cut: Cell::new(false),
        });
        if let Some(reason) = &*self.closing.borrow() {
            client.revoke(reason);
        }
        self.present.borrow_mut().insert(client.id(), Rc::clone(&presence));
        let _leave = Leave { hall: &self, device: &device, client: &client };
        device.connected(&client);
        tracing::info!(export, client = %identity, "NBD client connected");
        match Connection::new(&self, &presence, handover, &device) {
            Ok(connection) => {
                let end = connection.run().await;
                tracing::info!(export, client = %identity, reason = %end, "NBD client disconnected");
            }
            Err(error) => tracing::warn!(export, client = %identity, %error, "cannot serve NBD client"),
        }
    }

    /// Ends all connections, and those that come yet: what is in flight is answered, the rest fails with
    /// ESHUTDOWN, sockets are closed within [`Limits::drain_time`] and a second. `reason` goes to the log.
    pub fn close(&self, reason: &str) {
        self.closing.borrow_mut().get_or_insert_with(|| reason.into());
        for presence in self.present.borrow().values() {
            presence.client.revoke(reason);
        }
    }

    /// Ends when no connection is open.
    pub async fn emptied(&self) {
        while self.connections() > 0 {
            self.left.notified().await;
        }
    }

    /// How everybody stands, at the beginning of a wait for memory.
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot(self.present.borrow().iter().map(|(id, presence)| (*id, presence.standings())).collect())
    }

    /// Closes those that hold memory of the shared pool and have moved too little since `before`.
    pub(super) fn cut_stalled(&self, before: &Snapshot) {
        let least = self.limits.stall_bytes;
        for (id, before) in &before.0 {
            let presence = self.present.borrow().get(id).cloned();
            let stalls = |presence: &Rc<Presence>| {
                presence.standings().iter().zip(before).any(|(now, before)| now.stalls(before, least))
            };
            if let Some(presence) = presence.filter(stalls) {
                presence.cut.set(true);
                presence.client.revoke("the client stalled while others waited for its memory");
            }
        }
    }
}

/// Says goodbye, however the connection ends.
struct Leave<'a> {
    hall: &'a Hall,
    device: &'a Rc<dyn BlockDevice>,
    client: &'a Rc<Client>,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.device.disconnected(self.client);
        self.hall.present.borrow_mut().remove(&self.client.id());
        self.hall.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_debt_that_lasts_and_is_paid_too_slowly_stalls() {
        let account = Account::default();
        let owe = |owed, paid_bytes| {
            account.update(Debt { owed, paid_bytes });
            account.0.get()
        };
        let free = owe(false, 5);
        let before = owe(true, 10);
        assert!(!before.stalls(&free, 100), "the debt is younger than the wait");
        assert!(owe(true, 109).stalls(&before, 100), "bytes count, not events");
        assert!(!owe(true, 110).stalls(&before, 100));
        assert!(!owe(false, 10).stalls(&before, 100), "nothing is owed");
        assert!(!owe(true, 11).stalls(&before, 100), "another debt");
    }
}
