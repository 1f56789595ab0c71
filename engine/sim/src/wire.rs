//! One channel in one direction as the bytes that cross the network: encoded, cut anywhere, parsed again.
//!
//! A frame that the channel gives back must be the one that was put in, whatever the pieces; a damaged one must be
//! refused by its checksums, and one of another session by its number. Whatever else happens is a broken rule.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use evenkeel_core::volume::{
    codec::{Encoder, FrameError, HeapBuffers, Parser, SessionNumber},
    wire::Frame,
};

use crate::decision::Stream as Draws;

/// What comes out of a channel when a frame's bytes are there.
#[derive(Debug)]
pub(crate) enum Arrived {
    /// The frame.
    Frame(Frame),
    /// Damaged bytes, and the parser waits for more of them.
    Nothing,
    /// The parser refuses what came.
    Refused(FrameError),
    /// What cannot be.
    Wrong(String),
}

/// Whether bytes of the channel are damaged.
///
/// ```text
///   Whole --damage--> Next(where) --the next frame is put in--> Damaged
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Whole,
    Next(u64),
    Damaged,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct ByteChannel {
    encoder: Encoder,
    parser: Parser<HeapBuffers>,
    /// Frames on their way, whole.
    frames: VecDeque<Bytes>,
    /// So much of the first one has arrived already, behind the frame before it.
    arrived: usize,
    damage: Damage,
}

impl ByteChannel {
    pub(crate) fn new(session: SessionNumber) -> Self {
        Self {
            encoder: Encoder::new(session),
            parser: Parser::new(session, HeapBuffers),
            frames: VecDeque::new(),
            arrived: 0,
            damage: Damage::Whole,
        }
    }

    /// A frame is sent.
    pub(crate) fn push(&mut self, frame: &Frame) {
        let mut bytes = encode(&mut self.encoder, frame);
        if let Damage::Next(place) = self.damage {
            flip(&mut bytes, place);
            self.damage = Damage::Damaged;
        }
        self.frames.push_back(bytes.freeze());
    }

    /// One bit of the next frame that is sent will be wrong; which one, is drawn.
    pub(crate) fn damage(&mut self, draws: &mut Draws) {
        if self.damage == Damage::Whole {
            self.damage = Damage::Next(draws.next());
        }
    }

    /// The bytes of the next frame arrive in pieces, with some of those behind it; what was sent is `sent`.
    pub(crate) fn arrive(&mut self, sent: &Frame, draws: &mut Draws) -> Arrived {
        let mut rest = self.frames.pop_front().expect("the channel has as many frames as values");
        let mut rest = rest.split_off(std::mem::take(&mut self.arrived));
        let mut found = None;
        while !rest.is_empty() {
            let len = if draws.chance(1, 2) { rest.len() } else { 1 + draws.index(rest.len()) };
            let mut piece = rest.split_to(len);
            while !piece.is_empty() {
                match self.parser.next_frame(&mut piece) {
                    Ok(None) => {}
                    Ok(Some(frame)) if found.is_none() && rest.is_empty() => found = Some(frame),
                    Ok(Some(frame)) => return Arrived::Wrong(format!("a frame too many: {frame:?}")),
                    Err(error) => return self.refused(error),
                }
            }
        }
        match (found, self.damage) {
            (Some(frame), Damage::Whole | Damage::Next(_)) if frame == *sent => {
                self.read_ahead(draws).map_or(Arrived::Frame(frame), Arrived::Wrong)
            }
            (Some(frame), Damage::Whole | Damage::Next(_)) => {
                Arrived::Wrong(format!("{sent:?} was sent, {frame:?} arrived"))
            }
            // Frames before the damaged one were sent whole.
            (Some(frame), Damage::Damaged) if frame == *sent => {
                self.read_ahead(draws).map_or(Arrived::Frame(frame), Arrived::Wrong)
            }
            (Some(frame), Damage::Damaged) => {
                Arrived::Wrong(format!("{sent:?} was damaged, {frame:?} arrived"))
            }
            (None, Damage::Damaged) => Arrived::Nothing,
            (None, Damage::Whole | Damage::Next(_)) => Arrived::Wrong(format!("{sent:?} did not arrive")),
        }
    }

    fn refused(&self, error: FrameError) -> Arrived {
        match self.damage {
            Damage::Damaged => Arrived::Refused(error),
            Damage::Whole | Damage::Next(_) => Arrived::Wrong(format!("whole bytes were refused: {error}")),
        }
    }

    /// A part of the next frame arrives with this one.
    fn read_ahead(&mut self, draws: &mut Draws) -> Option<String> {
        let next = self.frames.front()?;
        let mut piece = next.slice(..draws.index(next.len()));
        self.arrived = piece.len();
        match self.parser.next_frame(&mut piece) {
            Ok(None) => None,
            Ok(Some(frame)) => Some(format!("a frame from a part of its bytes: {frame:?}")),
            Err(_) if self.damage == Damage::Damaged => None,
            Err(error) => Some(format!("whole bytes were refused: {error}")),
        }
    }

    /// Only the first `keep` frames on their way will arrive.
    pub(crate) fn cut(&mut self, keep: usize) {
        self.frames.truncate(keep);
    }
}

fn encode(encoder: &mut Encoder, frame: &Frame) -> BytesMut {
    encoder.push(frame, None);
    let mut bytes = BytesMut::new();
    for chunk in encoder.chunks().drain(..) {
        bytes.extend_from_slice(&chunk);
    }
    bytes
}

fn flip(bytes: &mut [u8], place: u64) {
    let bit = usize::try_from(place % (bytes.len() as u64 * 8)).expect("frames are small");
    bytes[bit / 8] ^= 1 << (bit % 8);
}

/// What a session makes of a frame of another session; `None` if it takes it for its own.
pub(crate) fn refusal(frame: &Frame, of: SessionNumber, by: SessionNumber) -> Option<FrameError> {
    let mut bytes = encode(&mut Encoder::new(of), frame).freeze();
    Parser::new(by, HeapBuffers).next_frame(&mut bytes).err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_core::ids::Sequence;

    fn session(number: u32) -> SessionNumber {
        SessionNumber::new(number).expect("not zero")
    }

    fn write(sequence: u64) -> Frame {
        let payload = Bytes::from(vec![7; 700]);
        Frame::Write { sequence: Sequence(sequence), after: Sequence(0), offset: 512, payload, fua: false }
    }

    #[test]
    fn frames_come_out_as_they_went_in_whatever_the_pieces() {
        for key in 0..200 {
            let mut draws = Draws::of_key(key);
            let mut channel = ByteChannel::new(session(3));
            for sequence in 1..4 {
                channel.push(&write(sequence));
            }
            for sequence in 1..4 {
                let arrived = channel.arrive(&write(sequence), &mut draws);
                assert!(
                    matches!(&arrived, Arrived::Frame(frame) if *frame == write(sequence)),
                    "{arrived:?}"
                );
            }
        }
    }

    #[test]
    fn no_flipped_bit_is_taken_for_a_frame() {
        let mut refused = 0;
        for key in 0..4_000 {
            let mut draws = Draws::of_key(key);
            let mut channel = ByteChannel::new(session(3));
            channel.push(&write(1));
            channel.damage(&mut draws);
            channel.push(&write(2));
            channel.push(&write(3));
            assert!(matches!(channel.arrive(&write(1), &mut draws), Arrived::Frame(_)));
            for sequence in [2, 3] {
                match channel.arrive(&write(sequence), &mut draws) {
                    Arrived::Nothing => {}
                    Arrived::Refused(_) => refused += 1,
                    other @ (Arrived::Frame(_) | Arrived::Wrong(_)) => panic!("{key}: {other:?}"),
                }
            }
        }
        assert!(refused > 7_000, "{refused}");
    }

    #[test]
    fn a_frame_of_another_session_is_refused_by_its_number() {
        let refused = refusal(&write(1), session(3), session(4));
        assert!(matches!(refused, Some(FrameError::Session { found: 3, expected: 4, .. })), "{refused:?}");
        assert_eq!(refusal(&write(1), session(3), session(3)), None);
    }
}
