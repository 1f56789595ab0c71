//! What has come in and the node has not looked at yet.
//!
//! Bounded: when so much payload waits that [`HELD_BYTES_MAX`] is passed, the readers of all channels stop until
//! the node has taken everything; the peers then run out of their windows.

use std::{
    cell::RefCell,
    task::{Context, Poll, Waker},
};

use evenkeel_core::volume::wire::{BlockContent, Frame};

use super::event::LinkEvent;

/// Readers stop when frames of so many bytes wait. One burst of each reader may come on top.
const HELD_BYTES_MAX: usize = 32 << 20;

/// What a frame counts for beside its payload.
const FRAME_BYTES: usize = 128;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<LinkEvent>,
    held_bytes: usize,
    /// The node, when it has seen everything.
    waker: Option<Waker>,
    /// Readers that wait for room.
    readers: Vec<Waker>,
}

/// Bytes of memory that a frame stands for.
pub(super) fn frame_bytes(frame: &Frame) -> usize {
    let payload = match frame {
        Frame::Write { payload, .. } | Frame::Fetched { payload: Some(payload), .. } => payload.len(),
        Frame::Part { blocks, .. } => blocks
            .iter()
            .map(|block| match block {
                BlockContent::Data(data) => data.len(),
                BlockContent::Same | BlockContent::Zero => 0,
            })
            .sum(),
        Frame::Pull { digests, .. } | Frame::Compare { digests, .. } => size_of_val(&digests[..]),
        Frame::Runs(runs) => size_of_val(&runs[..]),
        Frame::Settled(spans) => size_of_val(&spans[..]),
        Frame::Applied { also, .. } => size_of_val(&also[..]),
        Frame::Compared { differing, .. } => size_of_val(&differing[..]),
        Frame::Everywhere { nodes, .. } => size_of_val(&nodes[..]),
        Frame::Hello(_)
        | Frame::Report { .. }
        | Frame::Agree { .. }
        | Frame::Begin { .. }
        | Frame::Ready
        | Frame::Offer { .. }
        | Frame::Discard
        | Frame::DiscardAnswer(_)
        | Frame::Invalidate
        | Frame::InvalidateAnswer(_)
        | Frame::Grow { .. }
        | Frame::Grown { .. }
        | Frame::Adopted(_)
        | Frame::Host { .. }
        | Frame::Ask(_)
        | Frame::Answer { .. }
        | Frame::Mark { .. }
        | Frame::Outdate
        | Frame::Outdated
        | Frame::Yield
        | Frame::Yielded
        | Frame::Leave
        | Frame::Ping(_)
        | Frame::Pong(_)
        | Frame::Start(_)
        | Frame::Zero { .. }
        | Frame::FlushTo(_)
        | Frame::Received(_)
        | Frame::StableTo(_)
        | Frame::Failed
        | Frame::Fetch { .. }
        | Frame::Fetched { payload: None, .. }
        | Frame::RunsEnd
        | Frame::Finish
        | Frame::Counted { .. }
        | Frame::Finished => 0,
    };
    payload + FRAME_BYTES
}

impl Inbox {
    /// Appends an event.
    pub(super) fn push(&self, event: LinkEvent) {
        let mut state = self.state.borrow_mut();
        if let LinkEvent::Frame { frame, .. } = &event {
            state.held_bytes += frame_bytes(frame);
        }
        state.events.push(event);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Ready when a reader may go on.
    pub(super) fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if state.held_bytes < HELD_BYTES_MAX {
            return Poll::Ready(());
        }
        if !state.readers.iter().any(|reader| reader.will_wake(context.waker())) {
            state.readers.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// See [`Endpoint::poll_events`](super::Endpoint::poll_events).
    pub(super) fn poll_events(&self, context: &mut Context<'_>, events: &mut Vec<LinkEvent>) -> Poll<()> {
        assert!(events.is_empty(), "events that nobody has looked at");
        let mut state = self.state.borrow_mut();
        if state.events.is_empty() {
            match &mut state.waker {
                Some(waker) => waker.clone_from(context.waker()),
                None => state.waker = Some(context.waker().clone()),
            }
            return Poll::Pending;
        }
        std::mem::swap(&mut state.events, events);
        state.held_bytes = 0;
        state.readers.drain(..).for_each(Waker::wake);
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use evenkeel_core::{
        ids::Sequence,
        volume::io::{Channel, LinkId},
    };

    use super::*;
    use crate::link::{PeerKey, VolumeKey};

    #[test]
    fn readers_stop_when_it_is_full_and_go_on_when_it_was_emptied() {
        let inbox = Inbox::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut events = Vec::new();
        assert_eq!(inbox.poll_events(&mut context, &mut events), Poll::Pending);
        let payload = Bytes::from(vec![0; 1 << 20]);
        for index in 0..HELD_BYTES_MAX >> 20 {
            assert_eq!(inbox.poll_room(&mut context), Poll::Ready(()), "at {index} MiB");
            let (sequence, after) = (Sequence(1), Sequence::ZERO);
            inbox.push(LinkEvent::Frame {
                peer: PeerKey(0),
                volume: VolumeKey(0),
                link: LinkId(0),
                channel: Channel::Data,
                frame: Frame::Write { sequence, after, offset: 0, payload: payload.clone(), fua: false },
            });
        }
        assert_eq!(inbox.poll_room(&mut context), Poll::Pending);
        assert_eq!(inbox.poll_events(&mut context, &mut events), Poll::Ready(()));
        assert_eq!(events.len(), HELD_BYTES_MAX >> 20);
        assert_eq!(inbox.poll_room(&mut context), Poll::Ready(()));
    }
}
