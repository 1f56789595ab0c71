//! A good client that works without pause on a connection of its own and checks every reply, while others
//! misbehave.
//!
//! It keeps a model of its part of the device: what it reads must always be what it wrote last, through
//! WRITE, WRITE_ZEROES, FLUSH and FUA, several requests at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};

use super::{
    Address, Errno, Handshake, Transmission,
    pattern::{Numbers, pattern},
    protocol::{command, command_flag, export_flag},
};

/// Number of requests that are in flight together in one round.
const ROUND: u64 = 8;
/// Largest request.
const PIECE: u64 = 32 << 10;

/// A good client at work on a thread.
#[derive(Debug)]
pub struct Verifier {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

impl Verifier {
    /// Connects and begins to work on `length` bytes from `offset`, which nobody else may write to and whose
    /// content it first overwrites.
    ///
    /// # Errors
    /// The server does not let it in.
    pub fn start(address: &Address, export: &str, offset: u64, length: u64) -> Result<Self> {
        let client = Handshake::open(address)?.structured()?.go(export)?;
        ensure!(offset + length <= client.size(), "the part lies on the device");
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicU64::new(0));
        let mut work = Work {
            client,
            offset,
            model: vec![0; usize::try_from(length)?],
            numbers: Numbers::new(offset ^ length),
        };
        let thread = thread::spawn({
            let (stop, rounds) = (stop.clone(), rounds.clone());
            move || {
                work.fill()?;
                while !stop.load(Ordering::Relaxed) {
                    let round = rounds.load(Ordering::Relaxed);
                    work.round().with_context(|| format!("the good client, in its round {round}"))?;
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
                work.check_all()?;
                work.client.disconnect()
            }
        });
        Ok(Self { stop, rounds, thread })
    }

    /// Waits until it has done `count` more rounds: it makes progress now, whatever the others do.
    ///
    /// # Errors
    /// It has met an error, or made no progress for `limit`.
    pub fn wait_for_rounds(&self, count: u64, limit: Duration) -> Result<()> {
        let goal = self.rounds.load(Ordering::Relaxed) + count;
        crate::tools::wait_until("the good client makes progress", limit, || {
            self.thread.is_finished() || self.rounds.load(Ordering::Relaxed) >= goal
        })?;
        ensure!(!self.thread.is_finished(), "the good client has ended early: see finish()");
        Ok(())
    }

    /// Ends the work: reads everything once more, disconnects; returns the number of rounds.
    ///
    /// # Errors
    /// The first wrong or missing reply that it met.
    pub fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the good client panicked"))??;
        Ok(self.rounds.load(Ordering::Relaxed))
    }
}

struct Work {
    client: Transmission,
    offset: u64,
    model: Vec<u8>,
    numbers: Numbers,
}

impl Work {
    fn fill(&mut self) -> Result<()> {
        self.model = pattern(self.offset, self.model.len());
        for (index, piece) in self.model.chunks(1 << 20).enumerate() {
            self.client.write(self.offset + ((index as u64) << 20), piece)?;
        }
        Ok(())
    }

    /// Several changes in flight together (to different pieces: overlapping ones have no order), then reads.
    fn round(&mut self) -> Result<()> {
        let share = self.model.len() as u64 / ROUND;
        let mut changes = Vec::new();
        let mut pieces = Vec::new();
        for slot in 0..ROUND {
            let length = 1 + self.numbers.below(PIECE.min(share));
            let start = slot * share + self.numbers.below(share - length + 1);
            let range = usize::try_from(start)?..usize::try_from(start + length)?;
            let flags = if self.numbers.below(8) == 0 { command_flag::FUA } else { command_flag::NONE };
            let (offset, size) = (self.offset + start, u32::try_from(length)?);
            let cookie = match self.numbers.below(8) {
                0 if self.client.has(export_flag::SEND_WRITE_ZEROES) => {
                    self.model[range.clone()].fill(0);
                    self.client.send(command::WRITE_ZEROES, flags, offset, size, &[])?
                }
                _ => {
                    let data = pattern(self.numbers.next_u64(), range.len());
                    self.model[range.clone()].copy_from_slice(&data);
                    self.client.send(command::WRITE, flags, offset, size, &data)?
                }
            };
            changes.push(cookie);
            pieces.push((offset, range));
        }
        for cookie in changes {
            self.client.wait(cookie)?.expect(Errno::OK)?;
        }
        if self.numbers.below(16) == 0 {
            self.client.flush()?;
        }
        let mut reads = Vec::new();
        for (offset, range) in pieces {
            let length = u32::try_from(range.len())?;
            reads.push((self.client.send(command::READ, command_flag::NONE, offset, length, &[])?, range));
        }
        for (cookie, range) in reads {
            let data = self.client.wait(cookie)?.expect(Errno::OK)?.data;
            ensure!(data == self.model[range.clone()], "wrong data at {range:?} from {}", self.offset);
        }
        Ok(())
    }

    fn check_all(&mut self) -> Result<()> {
        self.client.flush()?;
        for (index, piece) in self.model.chunks(1 << 20).enumerate() {
            let offset = self.offset + ((index as u64) << 20);
            let data = self.client.read(offset, u32::try_from(piece.len())?)?;
            ensure!(data == piece, "wrong data in the MiB at {offset}, at the end");
        }
        Ok(())
    }
}
