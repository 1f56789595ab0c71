//! Online verify: compares a peer in sync with this node, block by block, and can repair it (R7).
//!
//! ```text
//!   leader: Fencing ──> Reading own ──digests──> Asked ──> equal: next
//!                                                      └─> differs ──repair──> Repairing (an ordinary write) ──> next
//!   follower: everything up to `at` applied ──> read ──> compare ──> answer
//! ```
//!
//! No false reports: the span is fenced while it is compared, so that no later write can be issued into it; and
//! the follower reads only when it has applied every write issued before. A write that meets the fence waits
//! for one round trip and two reads of 64 KiB. No deadlock: the fence waits for earlier writes only, and what
//! the follower waits for was issued before the question was sent.
//!
//! A verify that ends early leaves questions behind. Their answers are waited for, and count for no later verify: ids of
//! checks are never used twice, and old questions take their part of the credit.
//!
//! A repair is the leader's own content, issued as a write under the same fence: it goes through the activity
//! log, the order and the acknowledgements like any other.

use bytes::Bytes;

use super::{
    DiskState, Role,
    io::{Action, Area, Channel, ClientId, CommandId, DiskError, LinkId, Notice, RequestId},
    operation::{Content, Kind, Purpose, Request},
    operator::OperatorAnswer,
    peer::Session,
    range_lock::Access,
    slab::Key,
    span::ByteSpan,
    supply::digest,
    volume::{Broken, Volume},
    wire::Frame,
};
use crate::ids::{PeerIndex, Sequence};

/// Bytes compared with one question.
const CHECK_BYTES: u64 = 64 << 10;
/// Questions under way at once.
const CHECKS_MAX: usize = 8;
/// Spans that are named in the answer; more are only counted.
const NAMED_SPANS_MAX: usize = 1024;
/// The client in whose name repairs are written.
pub(crate) const REPAIR_CLIENT: ClientId = ClientId(u64::MAX);

/// Names a check, and the question about it, as long as the process lives.
pub(crate) type CheckId = u64;

/// A verify under way.
#[derive(Clone, Debug)]
pub(crate) struct Verify {
    command: CommandId,
    peer: PeerIndex,
    link: LinkId,
    repair: bool,
    cursor: u64,
    checks: Vec<Check>,
    compared_bytes: u64,
    differing_bytes: u64,
    differing: Vec<ByteSpan>,
}

/// One span that is being compared.
#[derive(Clone, Debug)]
struct Check {
    id: CheckId,
    span: ByteSpan,
    key: Key,
    /// What was read here, from the question until its answer.
    data: Option<Bytes>,
}

/// A question that waits at the follower.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    id: u64,
    span: ByteSpan,
    at: Sequence,
    digests: Vec<u128>,
    reading: bool,
}

impl Verify {
    /// Which peer is compared.
    pub(crate) fn peer(&self) -> PeerIndex {
        self.peer
    }
}

impl Volume {
    pub(crate) fn begin_verify(&mut self, command: CommandId, peer: PeerIndex, repair: bool) {
        let leads = matches!(self.session(peer), Session::Leading(leading) if leading.in_sync());
        if !leads || self.peer(peer).offered.is_some() {
            self.answer(command, Err("verify needs a peer that is in sync and follows this node"));
            return;
        }
        if self.has_primary() {
            self.answer(
                command,
                Err("this node is in sync with a primary, whose writes are under way; verify there"),
            );
            return;
        }
        if self.disk != DiskState::UpToDate {
            // Above all not that of a primary which is served by its peer (W7): a repair would copy old data there.
            self.answer(command, Err("verify compares with the own disk, and it is not UpToDate"));
            return;
        }
        if self.verify.is_some() {
            self.answer(command, Err("another verify is under way"));
            return;
        }
        if repair && self.role != Role::Primary {
            self.answer(command, Err("only a primary can repair"));
            return;
        }
        let link = self.peer(peer).link.expect("a session has a link");
        self.verify = Some(Verify {
            command,
            peer,
            link,
            repair,
            cursor: 0,
            checks: Vec::new(),
            compared_bytes: 0,
            differing_bytes: 0,
            differing: Vec::new(),
        });
    }

    /// Begins checks while there is credit, and ends when all is compared.
    pub(crate) fn advance_verify(&mut self) {
        let Some(verify) = &self.verify else { return };
        if self.peer(verify.peer).link != Some(verify.link) || !self.peer(verify.peer).receives() {
            self.end_verify(Err("the peer was lost before the end"));
            return;
        }
        if self.has_primary() {
            self.end_verify(Err("another node became primary before the end"));
            return;
        }
        let size = self.store().size_bytes();
        let Session::Leading(leading) = self.session(verify.peer) else { return };
        let credit = CHECKS_MAX - leading.given_up.len();
        while let Some(verify) = &mut self.verify
            && verify.checks.len() < credit
            && verify.cursor < size
        {
            let span = ByteSpan { offset: verify.cursor, len: CHECK_BYTES.min(size - verify.cursor) };
            verify.cursor = span.end();
            let id = self.next_check;
            self.next_check += 1;
            let key = self.enter(span, Access::Fence, Kind::Check { id });
            let verify = self.verify.as_mut().expect("just looked at");
            verify.checks.push(Check { id, span, key, data: None });
        }
        let verify = self.verify.as_ref().expect("just looked at");
        if verify.checks.is_empty() && verify.cursor >= size {
            self.end_verify(Ok(()));
        }
    }

    pub(crate) fn end_verify(&mut self, result: Result<(), &str>) {
        let Some(verify) = self.verify.take() else { return };
        for check in &verify.checks {
            // Those that are reading or writing on the own disk leave when they are done.
            if let Some(operation) = self.operations.get_mut(check.key)
                && matches!(operation.kind, Kind::Check { .. })
                && check.data.is_some()
            {
                self.leave(check.key);
            }
        }
        if let Ok(leading) = self.leading_mut(verify.peer) {
            let asked = verify.checks.iter().filter(|check| check.data.is_some());
            leading.given_up.extend(asked.map(|check| check.id));
        }
        match result {
            Ok(()) => {
                let answer = OperatorAnswer::Verified {
                    compared_bytes: verify.compared_bytes,
                    differing_bytes: verify.differing_bytes,
                    differing: verify.differing,
                    repaired: verify.repair,
                };
                self.out.push(Action::Answer { id: verify.command, answer });
            }
            Err(why) => self.answer(verify.command, Err(why)),
        }
    }

    /// The own side of a check was read under its fence.
    pub(crate) fn on_check_read(&mut self, key: Key, result: Result<Bytes, DiskError>) {
        let operation = self.operations.get_mut(key).expect("an operation outlives its disk action");
        let span = operation.span;
        let Kind::Check { id } = operation.kind else { panic!("only a check reads for itself") };
        let block_bytes = usize::try_from(self.store().block_bytes()).expect("a block is in memory");
        let at = self.log.issued();
        let current = self.verify.as_mut().and_then(|verify| {
            let peer = verify.peer;
            verify.checks.iter_mut().find(|check| check.key == key).map(|check| (peer, check))
        });
        let (Some((peer, check)), Ok(data)) = (current, &result) else {
            self.leave(key);
            if result.is_err() {
                self.end_verify(Err("the own disk cannot be read; `status` names the place"));
            }
            return;
        };
        check.data = Some(data.clone());
        let digests = data.chunks(block_bytes).map(digest).collect();
        self.send(peer, Channel::Resync, Frame::Compare { id, span, at, digests });
    }

    /// The follower's answer: which blocks differ.
    pub(crate) fn on_compared(
        &mut self,
        peer: PeerIndex,
        id: CheckId,
        differing: &[u32],
    ) -> Result<(), Broken> {
        let given_up = &mut self.leading_mut(peer)?.given_up;
        if let Some(place) = given_up.iter().position(|asked| *asked == id) {
            given_up.swap_remove(place);
            return Ok(());
        }
        let block_bytes = self.store().block_bytes();
        let verify = self.verify.as_mut().filter(|verify| verify.peer == peer);
        let asked = |check: &Check| check.id == id && check.data.is_some();
        let Some((verify, place)) =
            verify.and_then(|verify| verify.checks.iter().position(asked).map(|place| (verify, place)))
        else {
            return Err(Broken("a comparison that was not asked for"));
        };
        let span = verify.checks[place].span;
        if differing.iter().any(|&block| u64::from(block) * block_bytes >= span.len) {
            // The check stays: it leaves the lock when the verify ends, as the link does now.
            return Err(Broken("a comparison of blocks that were not asked for"));
        }
        let check = verify.checks.swap_remove(place);
        verify.compared_bytes += check.span.len;
        for &block in differing {
            let offset = check.span.offset + u64::from(block) * block_bytes;
            let len = block_bytes.min(check.span.end() - offset);
            verify.differing_bytes += len;
            if verify.differing.len() < NAMED_SPANS_MAX {
                verify.differing.push(ByteSpan { offset, len });
            }
        }
        if differing.is_empty() || !verify.repair {
            self.leave(check.key);
            return Ok(());
        }
        verify.checks.push(Check { data: None, ..check });
        let content = Content::Data(check.data.expect("it was looked for"));
        let request = self.requests.insert(Request {
            client: REPAIR_CLIENT,
            id: RequestId(id),
            pieces_left: 1,
            bytes: 0,
            failed: false,
            answered: false,
            since: self.now,
        });
        let operation = self.operations.get_mut(check.key).expect("a fenced check is in the lock");
        operation.kind = Kind::ClientWrite { request, content, fua: false, sequence: None };
        self.begin_client_write(check.key, span);
        Ok(())
    }

    /// A repair was acknowledged by the peer, or failed because this node does not lead any more.
    pub(crate) fn on_repaired(&mut self, id: RequestId, failed: bool) {
        let Some(verify) = &mut self.verify else { return };
        let before = verify.checks.len();
        verify.checks.retain(|check| check.id != id.0);
        if failed && verify.checks.len() < before {
            self.end_verify(Err("this node left its role before everything was repaired"));
        }
    }

    /// A leader asks for a comparison: answered when everything up to `at` is applied here.
    pub(crate) fn on_compare(
        &mut self,
        peer: PeerIndex,
        id: u64,
        span: ByteSpan,
        at: Sequence,
        digests: Vec<u128>,
    ) -> Result<(), Broken> {
        let blocks = span.len.div_ceil(self.store().block_bytes());
        if !self.is_valid(span) || span.len > CHECK_BYTES || digests.len() as u64 != blocks {
            return Err(Broken("a comparison of an impossible span"));
        }
        let following = self.following_mut(peer)?;
        if following.questions.len() >= CHECKS_MAX {
            return Err(Broken("too many comparisons at once"));
        }
        following.questions.push(Question { id, span, at, digests, reading: false });
        self.advance_questions(peer);
        Ok(())
    }

    pub(crate) fn advance_questions(&mut self, peer: PeerIndex) {
        let Some(link) = self.peer(peer).link else { return };
        let Ok(following) = self.following_mut(peer) else { return };
        let applied = following.applied;
        let ready: Vec<(u64, ByteSpan)> = following
            .questions
            .iter_mut()
            .filter(|question| !question.reading && question.at <= applied)
            .map(|question| {
                question.reading = true;
                (question.id, question.span)
            })
            .collect();
        for (question, span) in ready {
            let tag = self.tag(Purpose::QuestionRead { peer, link, question });
            self.out.push(Action::Read { tag, area: Area::Data, span });
        }
    }

    fn notice_unreadable(&mut self, peer: PeerIndex, id: u64) {
        let Ok(following) = self.following_mut(peer) else { return };
        let Some(question) = following.questions.iter().find(|question| question.id == id) else { return };
        let span = question.span;
        self.notice(Notice::Unreadable(span));
    }

    pub(crate) fn on_question_read(
        &mut self,
        peer: PeerIndex,
        link: LinkId,
        id: u64,
        result: Result<Bytes, DiskError>,
    ) {
        if self.peer(peer).link != Some(link) {
            return;
        }
        // What cannot be read is not what the leader has; a repair writes it anew.
        if result.is_err() {
            self.notice_unreadable(peer, id);
        }
        let data = result.unwrap_or_default();
        let block_bytes = usize::try_from(self.store().block_bytes()).expect("a block is in memory");
        let Ok(following) = self.following_mut(peer) else { return };
        let Some(place) = following.questions.iter().position(|question| question.id == id) else { return };
        let question = following.questions.swap_remove(place);
        let mut blocks = data.chunks(block_bytes);
        let differing = (0_u32..)
            .zip(&question.digests)
            .filter(|(_, theirs)| blocks.next().is_none_or(|block| digest(block) != **theirs))
            .map(|(block, _)| block)
            .collect();
        self.send(peer, Channel::Resync, Frame::Compared { id, differing });
    }
}
