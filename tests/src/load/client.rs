//! One client of the load, on a thread of its own: connects, keeps its requests in flight, writes down each of them.

use std::{
    collections::HashMap,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{PATIENCE, Place, Shared};
use crate::{
    judge::{End, Kind, Moment, Operation, SECTOR, WriteId, tag},
    raw::{
        Address, Completion, Handshake, Stream, Transmission,
        pattern::Numbers,
        protocol::{command, command_flag},
        stream::is_closed,
    },
};

/// Between two tries to connect.
const RETRY: Duration = Duration::from_millis(10);

/// Works until the load ends; all that it did.
pub(super) fn run(shared: &Shared, number: u32) -> Result<Vec<Operation>> {
    let seed = shared.options.seed.wrapping_mul(1009).wrapping_add(u64::from(number));
    let mut client =
        Client { shared, client: number, next: 1, numbers: Numbers::new(seed), done: Vec::new() };
    let mut served = Instant::now();
    let mut seen = 0;
    while let Some((target, address)) = wait_for_target(shared) {
        if target != seen {
            (seen, served) = (target, Instant::now());
        }
        let result = client.visit(&address, target);
        client.register(None);
        shared.busy.fetch_sub(1, Ordering::SeqCst);
        match result.with_context(|| format!("client {number}"))? {
            Visit::Served => served = Instant::now(),
            Visit::Refused(text) => {
                ensure!(served.elapsed() < PATIENCE, "client {number}: not served for {PATIENCE:?}: {text}");
                if let Ok(mut refusal) = shared.refusal.lock() {
                    *refusal = text;
                }
                thread::sleep(RETRY);
            }
        }
    }
    Ok(client.done)
}

/// Waits until there is a server to go to, and counts as busy from then on; `None` when the load is over.
fn wait_for_target(shared: &Shared) -> Option<(u64, Address)> {
    let mut target = shared.target();
    loop {
        match &target.place {
            Place::End => return None,
            Place::Server(address) => {
                // Under the lock: whoever changes the target sees this client, or is seen by it.
                shared.busy.fetch_add(1, Ordering::SeqCst);
                return Some((target.number, address.clone()));
            }
            Place::Nowhere => {
                target = shared.changed.wait(target).unwrap_or_else(|_| panic!("another client panicked"));
            }
        }
    }
}

/// What became of a try to work on a server.
enum Visit {
    /// The server let us in.
    Served,
    /// It did not.
    Refused(String),
}

struct Client<'a> {
    shared: &'a Shared,
    client: u32,
    /// Number of the next request.
    next: u32,
    numbers: Numbers,
    done: Vec<Operation>,
}

/// A request before it is sent.
struct Plan {
    command: u16,
    flags: u16,
    first: u64,
    count: u32,
    kind: Kind,
}

impl Client<'_> {
    /// Connects and works until the target changes or the connection ends.
    fn visit(&mut self, address: &Address, target: u64) -> Result<Visit> {
        match self.connect(address, target) {
            Ok(Some(connection)) => {
                self.settle();
                self.work(connection, target)?;
                Ok(Visit::Served)
            }
            Ok(None) => Ok(Visit::Served),
            Err(error) => Ok(Visit::Refused(format!("{error:#}"))),
        }
    }

    /// `None` when the target has changed meanwhile.
    fn connect(&self, address: &Address, target: u64) -> Result<Option<Transmission>> {
        let stream = Stream::connect(address)?;
        self.register(Some(stream.try_clone()?));
        if !self.shared.is_current(target) {
            return Ok(None);
        }
        let connection = Handshake::over(stream)?.structured()?.go(&self.shared.options.export)?;
        Ok(Some(connection))
    }

    fn register(&self, handle: Option<Stream>) {
        if let Ok(mut sockets) = self.shared.sockets.lock() {
            sockets[self.client as usize - 1] = handle;
        }
    }

    /// The volume is served again: what was lost with earlier connections is decided.
    fn settle(&mut self) {
        let now = self.shared.clock.now();
        for operation in &mut self.done {
            if let End::Lost { settled, .. } = &mut operation.end
                && *settled == Moment::NEVER
            {
                *settled = now;
            }
        }
    }

    fn work(&mut self, mut connection: Transmission, target: u64) -> Result<()> {
        let mut flying: HashMap<u64, Operation> = HashMap::new();
        loop {
            let leaving = !self.shared.is_current(target);
            while !leaving && flying.len() < self.shared.options.depth {
                match self.send(&mut connection) {
                    Ok((cookie, operation)) => {
                        flying.insert(cookie, operation);
                    }
                    Err(error) if is_end(&error) => {
                        // The request in hand was not sent whole; a server never acts on half a request.
                        self.collect(&mut connection, &mut flying)?;
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
            if flying.is_empty() {
                // Fails if the server ends at this very moment, which is no fault of this client.
                let _ = connection.disconnect();
                return Ok(());
            }
            match connection.wait_any_or_close() {
                Ok(Some(completion)) => self.answered(completion, &mut flying)?,
                Ok(None) => {
                    self.lost(&mut flying);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            if !self.shared.options.pause.is_zero() {
                thread::sleep(self.shared.options.pause);
            }
        }
    }

    /// Takes the answers that came before the connection ended.
    fn collect(&mut self, connection: &mut Transmission, flying: &mut HashMap<u64, Operation>) -> Result<()> {
        while !flying.is_empty() {
            match connection.wait_any_or_close()? {
                // The request that was not sent whole is known to the connection, but not to us.
                Some(completion) if !flying.contains_key(&completion.cookie) => {
                    bail!("half a request was answered: {completion:?}")
                }
                Some(completion) => self.answered(completion, flying)?,
                None => break,
            }
        }
        self.lost(flying);
        Ok(())
    }

    fn lost(&mut self, flying: &mut HashMap<u64, Operation>) {
        let at = self.shared.clock.now();
        for (_, mut operation) in flying.drain() {
            operation.end = End::Lost { at, settled: Moment::NEVER };
            self.done.push(operation);
        }
    }

    fn answered(&mut self, completion: Completion, flying: &mut HashMap<u64, Operation>) -> Result<()> {
        let at = self.shared.clock.now();
        let mut operation =
            flying.remove(&completion.cookie).context("an answer to a request that was sent")?;
        operation.end = End::Answered { at, errno: completion.error.0 };
        if let Kind::Read(values) = &mut operation.kind
            && completion.error.0 == 0
        {
            *values = tag::values(self.shared.options.volume, operation.first, &completion.data);
        }
        if operation.is_change() && operation.succeeded() {
            self.shared.acknowledged.fetch_add(1, Ordering::SeqCst);
        }
        self.done.push(operation);
        Ok(())
    }

    fn send(&mut self, connection: &mut Transmission) -> Result<(u64, Operation)> {
        let plan = self.plan();
        let id = WriteId { client: self.client, number: self.next };
        self.next += 1;
        let payload = match plan.kind {
            Kind::Write { .. } => tag::content(self.shared.options.volume, id, plan.first, plan.count),
            Kind::Zero { .. } | Kind::Flush | Kind::Read(_) => Vec::new(),
        };
        let submitted = self.shared.clock.now();
        let length = plan.count * u32::try_from(SECTOR)?;
        let offset = plan.first * SECTOR as u64;
        let cookie = connection.send(plan.command, plan.flags, offset, length, &payload)?;
        let end = End::Lost { at: Moment::NEVER, settled: Moment::NEVER };
        let Plan { first, count, kind, .. } = plan;
        Ok((cookie, Operation { id, kind, first, count, submitted, end }))
    }

    fn plan(&mut self) -> Plan {
        let options = &self.shared.options;
        let mix = options.mix;
        let place = &options.places[usize_below(&mut self.numbers, options.places.len())];
        let size = place.end - place.start;
        let mut count = 1 + self.numbers.below(u64::from(options.longest).min(size));
        let mut first = place.start + self.numbers.below(size - count + 1);
        if self.numbers.below(2) == 0 {
            // Whole blocks of 4 KiB: what a filesystem does.
            (first, count) = (first / 8 * 8, count.next_multiple_of(8));
            if first < place.start || first + count > place.end {
                (first, count) = (place.start, 1);
            }
        }
        let count = u32::try_from(count).unwrap_or(1);
        let kinds = [
            (mix.read, command::READ, command_flag::NONE, Kind::Read(Vec::new())),
            (mix.write, command::WRITE, command_flag::NONE, Kind::Write { fua: false }),
            (mix.write_fua, command::WRITE, command_flag::FUA, Kind::Write { fua: true }),
            (mix.zero, command::WRITE_ZEROES, command_flag::NONE, Kind::Zero { fua: false }),
            (mix.trim, command::TRIM, command_flag::NONE, Kind::Zero { fua: false }),
            (mix.flush, command::FLUSH, command_flag::NONE, Kind::Flush),
        ];
        let sum: u32 = kinds.iter().map(|kind| kind.0).sum();
        let mut choice = self.numbers.below(u64::from(sum));
        for (weight, command, flags, kind) in kinds {
            if choice < u64::from(weight) {
                let (first, count) = if kind == Kind::Flush { (0, 0) } else { (first, count) };
                return Plan { command, flags, first, count, kind };
            }
            choice -= u64::from(weight);
        }
        unreachable!("the choice lies below the sum of the weights")
    }
}

fn usize_below(numbers: &mut Numbers, limit: usize) -> usize {
    usize::try_from(numbers.below(limit as u64)).unwrap_or(0)
}

/// Whether an error says that the server has closed the connection.
fn is_end(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(is_closed)
            || cause.downcast_ref::<rustix::io::Errno>().is_some_and(|errno| is_closed(&(*errno).into()))
    })
}
