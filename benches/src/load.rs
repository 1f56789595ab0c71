//! A light load generator: one NBD connection, one thread, a fixed number of writes in flight.
//!
//! fio's NBD engine ends at about 25,000 requests a second for every server here, so it compares nothing above that. This
//! one puts all new requests of a turn into one `writev` and takes all replies that are there with one `read`.
//! Structured replies are not asked for, so every reply has 16 bytes.

use std::{
    io::{IoSlice, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::time::{ClockId, clock_gettime};

const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
/// The first bit marks errors.
const REP_ERROR: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
/// Fixed newstyle, and no zeroes after the export.
const CLIENT_FLAGS: u32 = 3;
const CMD_WRITE: u16 = 1;
const REPLY_BYTES: usize = 16;
const REQUEST_BYTES: usize = 28;
/// Slices that one `writev` takes (IOV_MAX).
const SLICES: usize = 1024;

/// What a run does.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Bytes of one write; writes are aligned to it.
    pub block_bytes: usize,
    /// Writes in flight.
    pub depth: usize,
    /// Where the writes go, and when the run ends.
    pub extent: Extent,
}

/// See [`Job::extent`].
#[derive(Clone, Copy, Debug)]
pub enum Extent {
    /// Anywhere, until the time is over.
    RandomFor(Duration),
    /// Every block once, in order.
    All,
}

/// What a run measured.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Writes that were answered.
    pub operations: u32,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Median time of a write, in microseconds.
    pub p50_us: f64,
    /// 99th percentile, in microseconds.
    pub p99_us: f64,
    /// CPU time of the generator itself.
    pub own_cpu: Duration,
}

/// A connection to an export.
#[derive(Debug)]
pub struct Generator {
    stream: UnixStream,
    export_bytes: u64,
    /// State of a xorshift generator: the same places in every run of a new connection.
    random: u64,
}

impl Generator {
    /// Connects and negotiates.
    ///
    /// # Errors
    /// Nobody listens, or the export is refused.
    pub fn connect(socket: &Path, export: &str) -> Result<Self> {
        let mut stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        ensure!(&greeting[..16] == b"NBDMAGICIHAVEOPT", "not a newstyle NBD server");
        let mut hello = CLIENT_FLAGS.to_be_bytes().to_vec();
        hello.extend_from_slice(b"IHAVEOPT");
        hello.extend_from_slice(&OPT_GO.to_be_bytes());
        let name_bytes = u32::try_from(export.len())?;
        hello.extend_from_slice(&(name_bytes + 6).to_be_bytes());
        hello.extend_from_slice(&name_bytes.to_be_bytes());
        hello.extend_from_slice(export.as_bytes());
        hello.extend_from_slice(&0_u16.to_be_bytes());
        stream.write_all(&hello)?;
        let mut export_bytes = None;
        loop {
            let mut head = [0; 20];
            stream.read_exact(&mut head)?;
            ensure!(head[..8] == OPTION_REPLY_MAGIC.to_be_bytes(), "not an option reply");
            let [kind, len] = [12, 16].map(|at| be_u32(&head[at..]));
            ensure!(len <= 4096, "an option reply of {len} bytes");
            let mut body = vec![0; usize::try_from(len)?];
            stream.read_exact(&mut body)?;
            match kind {
                REP_ACK => break,
                REP_INFO if body.len() == 12 && body[..2] == INFO_EXPORT.to_be_bytes() => {
                    export_bytes = Some(u64::from(be_u32(&body[2..])) << 32 | u64::from(be_u32(&body[6..])));
                }
                REP_INFO => {}
                kind if kind & REP_ERROR != 0 => {
                    bail!("export {export} is refused: {}", String::from_utf8_lossy(&body))
                }
                kind => bail!("option reply {kind}"),
            }
        }
        let export_bytes = export_bytes.context("the server did not say how long the export is")?;
        Ok(Self { stream, export_bytes, random: 88_172_645_463_325_252 })
    }

    /// Does a job, and returns when all its writes are answered.
    ///
    /// # Errors
    /// The connection breaks, or a write is answered with an error.
    pub fn run(&mut self, job: &Job) -> Result<Outcome> {
        let blocks = self.export_bytes / u64::try_from(job.block_bytes)?;
        let payload = payload(job.block_bytes);
        let mut latencies_us: Vec<u32> = Vec::new();
        // By slot: which is the cookie of its request.
        let mut sent_at = vec![Instant::now(); job.depth];
        let mut free: Vec<usize> = (0..job.depth).collect();
        let mut heads: Vec<[u8; REQUEST_BYTES]> = Vec::with_capacity(job.depth);
        let mut replies = vec![0; REPLY_BYTES * job.depth];
        let mut have = 0;
        let mut begun = 0;
        let (begin, cpu_before) = (Instant::now(), thread_cpu_time());
        loop {
            let now = Instant::now();
            heads.clear();
            while !free.is_empty() {
                let block = match job.extent {
                    Extent::RandomFor(time) if now - begin < time => self.next_random() % blocks,
                    Extent::All if begun < blocks => begun,
                    Extent::RandomFor(_) | Extent::All => break,
                };
                let slot = free.pop().expect("one is free");
                begun += 1;
                sent_at[slot] = now;
                heads.push(request(slot, block, job.block_bytes));
            }
            self.send(&heads, &payload)?;
            if free.len() == job.depth {
                break;
            }
            let count = self.stream.read(&mut replies[have..])?;
            ensure!(count > 0, "the server closed the connection");
            have += count;
            let whole = have / REPLY_BYTES * REPLY_BYTES;
            let now = Instant::now();
            for reply in replies[..whole].chunks_exact(REPLY_BYTES) {
                ensure!(be_u32(reply) == REPLY_MAGIC, "not a simple reply");
                ensure!(be_u32(&reply[4..]) == 0, "a write failed with error {}", be_u32(&reply[4..]));
                let slot = usize::try_from(be_u32(&reply[12..]))?;
                let sent = sent_at.get(slot).context("a reply with a cookie that was not sent")?;
                latencies_us.push(u32::try_from((now - *sent).as_micros())?);
                free.push(slot);
            }
            replies.copy_within(whole..have, 0);
            have -= whole;
        }
        let (elapsed, own_cpu) = (begin.elapsed(), thread_cpu_time().saturating_sub(cpu_before));
        latencies_us.sort_unstable();
        ensure!(!latencies_us.is_empty(), "no write was answered");
        let share = |of_100: usize| f64::from(latencies_us[(latencies_us.len() - 1) * of_100 / 100]);
        let operations = u32::try_from(latencies_us.len())?;
        Ok(Outcome { operations, elapsed, p50_us: share(50), p99_us: share(99), own_cpu })
    }

    fn send(&mut self, heads: &[[u8; REQUEST_BYTES]], payload: &[u8]) -> Result<()> {
        let mut slices: Vec<IoSlice<'_>> =
            heads.iter().flat_map(|head| [IoSlice::new(head), IoSlice::new(payload)]).collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let window = rest.len().min(SLICES);
            let count = self.stream.write_vectored(&rest[..window])?;
            IoSlice::advance_slices(&mut rest, count);
        }
        Ok(())
    }

    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// Data that no server can take for zeroes.
fn payload(bytes: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().take(bytes).collect()
}

fn request(slot: usize, block: u64, block_bytes: usize) -> [u8; REQUEST_BYTES] {
    let mut head = [0; REQUEST_BYTES];
    head[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    head[6..8].copy_from_slice(&CMD_WRITE.to_be_bytes());
    head[8..16].copy_from_slice(&(slot as u64).to_be_bytes());
    head[16..24].copy_from_slice(&(block * block_bytes as u64).to_be_bytes());
    let len = u32::try_from(block_bytes).expect("a write has less than 4 GiB");
    head[24..].copy_from_slice(&len.to_be_bytes());
    head
}

/// The number at the beginning of `bytes`.
fn be_u32(bytes: &[u8]) -> u32 {
    let first = bytes.first_chunk().expect("callers have read four bytes");
    u32::from_be_bytes(*first)
}

fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).expect("CPU time is positive"),
        u32::try_from(time.tv_nsec).expect("less than a second"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_protocol_says() {
        let head = request(3, 2, 4096);
        assert_eq!(head[..8], [0x25, 0x60, 0x95, 0x13, 0, 0, 0, 1]);
        assert_eq!(head[15], 3);
        assert_eq!(head[16..24], 8192_u64.to_be_bytes());
        assert_eq!(head[24..], 4096_u32.to_be_bytes());
    }
}
