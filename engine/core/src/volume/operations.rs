//! Operations on the own disk: how they begin once the range lock lets them through, and how they end.

use bytes::Bytes;

use super::{
    disk_failure::Failure,
    io::{Action, Area, DiskError, Notice, RequestError, RequestOutcome},
    operation::{Kind, Purpose},
    slab::Key,
    volume::Volume,
    write_log::Place,
};
use crate::ids::Sequence;

impl Volume {
    /// Whether something that this node followed is still on its way to the own disk.
    pub(crate) fn is_applying(&self) -> bool {
        self.operations.iter().any(|(_, operation)| match operation.kind {
            Kind::Replica { .. } | Kind::TargetStore { .. } => true,
            Kind::ClientWrite { .. }
            | Kind::ClientRead { .. }
            | Kind::SourceRead { .. }
            | Kind::Check { .. } => false,
        })
    }

    /// Makes everything that this node has followed stable: a flush that begins when nothing of it is on its way to
    /// the disk any more.
    pub(crate) fn flush_followed(&mut self, purpose: Purpose) {
        self.quiescing.push(purpose);
        self.advance_quiescing();
    }

    pub(crate) fn advance_quiescing(&mut self) {
        if self.quiescing.is_empty() || self.is_applying() {
            return;
        }
        for purpose in std::mem::take(&mut self.quiescing) {
            let tag = self.tag(purpose);
            self.out.push(Action::Flush { tag });
        }
    }

    /// Begins an operation that nothing is in the way of any more.
    pub(crate) fn begin_operation(&mut self, key: Key) {
        let diskless = self.is_diskless();
        let operation = self.operations.get_mut(key).expect("an operation in the lock exists");
        let span = operation.span;
        match &operation.kind {
            Kind::ClientWrite { .. } => self.begin_client_write(key, span),
            Kind::ClientRead { .. } if diskless => self.read_remotely(key),
            Kind::ClientRead { .. } | Kind::SourceRead { .. } | Kind::Check { .. } => {
                let tag = self.tag(Purpose::Operation(key));
                self.out.push(Action::Read { tag, area: Area::Data, span });
            }
            Kind::Replica { hosted: Some(_), .. } => self.begin_hosted_write(key),
            Kind::Replica { hosted: None, .. } => {
                if !self.has_third_nodes() || self.store_mut().hold(span, key) {
                    self.begin_replica_write(key);
                }
            }
            Kind::TargetStore { .. } => self.begin_target_store(key),
        }
    }

    /// An operation that waited for its extents has them.
    pub(crate) fn on_extents_hot(&mut self, key: Key) {
        let operation = self.operations.get_mut(key).expect("what waits for extents is in the lock");
        match operation.kind {
            Kind::ClientWrite { .. } => self.issue_or_park(key),
            Kind::Replica { hosted: Some(_), .. } => self.issue_or_park(key),
            Kind::Replica { hosted: None, .. } => self.begin_replica_write(key),
            Kind::ClientRead { .. }
            | Kind::SourceRead { .. }
            | Kind::Check { .. }
            | Kind::TargetStore { .. } => panic!("only writes wait for extents"),
        }
    }

    /// A write of the leader goes to the own disk; with three nodes its extents are in the activity log (G9).
    fn begin_replica_write(&mut self, key: Key) {
        let operation = self.operations.get_mut(key).expect("an operation in the lock exists");
        let span = operation.span;
        let Kind::Replica { peer, link, sequence, content, fua, .. } = &operation.kind else {
            panic!("only a leader's write is a replica's")
        };
        let (stream, sequence, content, fua) = ((*peer, *link), *sequence, content.clone(), *fua);
        if self.has_third_nodes() {
            // Of a session that is over it is in the bits of every peer, and its number means nothing any more.
            let at = if self.stream == Some(stream) { sequence } else { Sequence::ZERO };
            self.store_mut().assigned(span, at);
        }
        self.write_own(key, span, content, fua);
    }

    /// A write of an operation ended on the own disk.
    pub(crate) fn on_operation_done(&mut self, key: Key, result: Result<(), DiskError>) {
        if let Err(error) = result {
            let fua = self.operations.get_mut(key).is_some_and(|operation| operation.is_fua());
            self.fail_disk(if fua { Failure::Flush(error) } else { Failure::Write(error) });
        }
        let failed = self.disk == super::DiskState::Failed;
        let Some(operation) = self.operations.get_mut(key) else {
            assert!(failed, "an operation outlives its disk action");
            return;
        };
        match operation.kind {
            // Nobody waits for a disk that has failed.
            Kind::ClientWrite { .. } if failed => {}
            Kind::ClientWrite { sequence, .. } => {
                let sequence = sequence.expect("only issued writes reach the disk");
                if result.is_ok() {
                    self.log
                        .applied(Place::Own, sequence, &mut self.answerable)
                        .expect("the own disk acknowledges what was issued");
                }
            }
            Kind::Replica { peer, link, sequence, hosted, .. } => {
                self.leave(key);
                if result.is_ok()
                    && let Some(own) = hosted
                {
                    self.on_hosted_applied(own);
                }
                if result.is_ok() {
                    self.on_replica_applied(peer, link, sequence);
                }
                self.advance_promotion();
                self.advance_demotion();
            }
            Kind::ClientRead { .. }
            | Kind::SourceRead { .. }
            | Kind::Check { .. }
            | Kind::TargetStore { .. } => {
                panic!("this operation does not write by itself")
            }
        }
    }

    /// A read of an operation ended.
    pub(crate) fn on_operation_read(&mut self, key: Key, result: Result<Bytes, DiskError>) {
        let serves = self.serves();
        let operation = self.operations.get_mut(key).expect("an operation outlives its disk action");
        if result.is_err() {
            self.out.push(Action::Notice(Notice::Unreadable(operation.span)));
        }
        match operation.kind {
            Kind::Check { .. } => {
                self.on_check_read(key, result);
                return;
            }
            // The peers may have what cannot be read here (W7).
            Kind::ClientRead { .. } if result.is_err() && serves => {
                self.read_remotely(key);
                return;
            }
            Kind::ClientRead { .. }
            | Kind::SourceRead { .. }
            | Kind::ClientWrite { .. }
            | Kind::Replica { .. }
            | Kind::TargetStore { .. } => {}
        }
        let operation = self.leave(key);
        match operation.kind {
            Kind::ClientRead { client, id, since } => {
                // A read that was overtaken by the loss of the role says nothing about the newest data (G10).
                let result = match result {
                    _ if !serves => Err(RequestError::Shutdown),
                    Ok(data) => {
                        let now = self.now;
                        self.pace.courtesy.answered(now, since);
                        self.io.reads += 1;
                        self.io.read_bytes += data.len() as u64;
                        Ok(RequestOutcome::Data(data))
                    }
                    Err(_) => Err(RequestError::Io),
                };
                self.reply_read(client, id, result);
            }
            Kind::SourceRead { peer, link, pull, read_at, digests } => {
                self.pace.courtesy.ends();
                self.on_source_read(peer, link, pull, read_at, operation.span, &digests, result);
            }
            Kind::ClientWrite { .. }
            | Kind::Replica { .. }
            | Kind::Check { .. }
            | Kind::TargetStore { .. } => {
                panic!("this operation does not read by itself")
            }
        }
    }
}
