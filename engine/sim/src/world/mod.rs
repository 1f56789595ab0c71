//! A whole cluster in one thread: nodes, disks, links, clocks, clients and an operator, under one agenda.
//!
//! The world takes what is due next, tells the engine concerned, carries out the actions that come back, and
//! tells the oracle. Time is virtual: it jumps from one entry of the agenda to the next. Everything is a pure
//! function of the plan.
//!
//! * `agenda`: what happens when. `node`: one machine. `feed`: events in, actions out.
//! * `links`: births and deaths of connections, frames on their way. `demand`: the clients' side.
//! * `strike`: the faults of the schedule. `caretaker`: the operator who keeps the cluster useful.
//! * `absence`: a primary that stood still. `ambush`: a node that dies beside a rare moment.
//! * `judge`: what the oracle is told of states and images; the end of a run.

mod absence;
mod agenda;
mod ambush;
mod caretaker;
mod demand;
mod feed;
mod judge;
mod links;
pub(crate) mod node;
mod strike;

use std::collections::VecDeque;

use evenkeel_core::volume::{
    io::{Action, Channel, CommandId, LinkId},
    wire::Frame,
};

use self::{agenda::Agenda, agenda::Due, ambush::Ambush, caretaker::Caretaker, node::Node};
use crate::{
    client::Clients,
    coverage::Coverage,
    decision::{Concern, Stream, mix},
    engine::{CreateSpec, Engine},
    net::Net,
    oracle::{Oracle, Violation},
    plan::{FaultKind, MILLISECOND, Plan},
};

/// More events than this in one run: it goes round in circles.
const MAX_EVENTS: u64 = 3_000_000;
/// How often the caretaker looks around.
const TICK: u64 = 250 * MILLISECOND;

/// What a run counted.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Calls of an engine with a disk completion, frame, client request or operator input.
    pub events: u64,
    /// Writes and zeroings answered well.
    pub acked_writes: u64,
    /// Requests answered with an error.
    pub failed_requests: u64,
    /// Transitions to primary.
    pub promotions: u64,
    /// Resyncs that ended.
    pub resyncs_completed: u64,
    /// Processes that died and machines that lost power.
    pub crashes: u64,
    /// Faults that struck, by kind.
    pub faults: Vec<u64>,
    /// Runs of two lines apart that were found and ended.
    pub forks: u64,
    /// Virtual time in nanoseconds.
    pub virtual_nanos: u64,
}

impl Counts {
    pub(crate) fn new() -> Self {
        Self {
            events: 0,
            acked_writes: 0,
            failed_requests: 0,
            promotions: 0,
            resyncs_completed: 0,
            crashes: 0,
            faults: vec![0; FaultKind::ALL.len()],
            forks: 0,
            virtual_nanos: 0,
        }
    }
}

/// How far a run is.
///
/// ```text
///   Faults --heal_at--> Healing --everything is well--> Leaving --demoted--> Over
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Faults strike.
    Faults,
    /// Everything must become well again within a bound.
    Healing,
    /// The primary is made secondary, so that all images are stable and equal.
    Leaving,
    /// Done.
    Over,
}

/// The cluster.
pub(crate) struct World<'p, E: Engine> {
    plan: &'p Plan,
    settings: E::Settings,
    now: u64,
    agenda: Agenda,
    nodes: Vec<Node<E>>,
    net: Net,
    net_draws: Stream,
    wire_draws: Stream,
    /// When each pair may try to connect again.
    dial_at: Vec<u64>,
    clients: Clients,
    caretaker: Caretaker,
    next_command: u64,
    phase: Phase,
    healing_since: u64,
    /// Those that are laid and have not sprung.
    ambushes: Vec<Ambush>,
    /// Frames that were delivered lately, for replays; kept only if the plan replays.
    delivered: VecDeque<(usize, usize, LinkId, Channel, Frame)>,
    keeps_delivered: bool,
    /// The event at hand ends a commit of metadata.
    commit_ended: bool,
    /// A disk could not read something: a verify may have taken it for a difference.
    unreadable: bool,
    /// Answers that say that something is stable.
    told_stable: u64,
    spare: Vec<Vec<Action>>,
    pub(crate) oracle: Oracle,
    pub(crate) counts: Counts,
    pub(crate) coverage: Coverage,
    pub(crate) hash: u64,
    trace: Option<VecDeque<String>>,
    trace_lines: usize,
}

impl<'p, E: Engine> World<'p, E> {
    /// A cluster of freshly made disks, all nodes about to start.
    pub(crate) fn new(plan: &'p Plan, settings: &E::Settings, trace_lines: usize) -> Self {
        let meta_len = E::meta_len(plan.size_bytes_max, plan.nodes - 1, settings);
        let nodes = (0..plan.nodes).map(|node| Node::new(plan, node, meta_len)).collect();
        let mut world = Self {
            plan,
            settings: settings.clone(),
            now: 0,
            agenda: Agenda::default(),
            nodes,
            net: Net::new(plan.nodes),
            net_draws: Stream::new(plan.seed, Concern::Net),
            wire_draws: Stream::new(plan.seed, Concern::Wire),
            dial_at: vec![0; plan.nodes * plan.nodes],
            clients: Clients::new(plan),
            caretaker: Caretaker::new(plan),
            next_command: 0,
            phase: Phase::Faults,
            healing_since: 0,
            delivered: VecDeque::new(),
            ambushes: Vec::new(),
            keeps_delivered: plan.faults.iter().any(|fault| fault.kind == FaultKind::Replay),
            commit_ended: false,
            unreadable: false,
            told_stable: 0,
            spare: Vec::new(),
            oracle: Oracle::new(
                plan.nodes,
                plan.size_bytes_max,
                plan.protocol,
                plan.max_lag_bytes,
                plan.beyond_budget,
            ),
            counts: Counts::new(),
            coverage: Coverage::default(),
            hash: mix(plan.seed),
            trace: (trace_lines > 0).then(VecDeque::new),
            trace_lines,
        };
        for node in 0..plan.nodes {
            world.make_disk(node, false);
            world.nodes[node].boot_due = true;
            world.agenda.put(node as u64 * MILLISECOND, Due::Boot { node });
        }
        for (entry, fault) in plan.faults.iter().enumerate() {
            world.agenda.put(fault.at, Due::Fault { entry });
        }
        world.agenda.put(TICK, Due::Tick);
        world
    }

    fn make_disk(&mut self, node: usize, remembered: bool) {
        let this = &mut self.nodes[node];
        let spec = CreateSpec {
            size_bytes: self.plan.size_bytes,
            config: this.config.clone(),
            node,
            node_id: mix(mix(self.plan.seed) ^ node as u64) | 1,
            entropy: this.identity.wide(),
            remembered,
        };
        let pieces = E::create(&spec, &self.settings);
        this.disk.create(&pieces, self.plan.size_bytes);
    }

    /// Runs to the end, or to the first broken rule.
    pub(crate) fn run(&mut self) -> Option<Violation> {
        while self.phase != Phase::Over && self.oracle.violation().is_none() {
            let (at, due) = self.agenda.take().expect("the caretaker is always on the agenda");
            debug_assert!(at >= self.now);
            self.now = at;
            self.happens(due);
            if self.counts.events > MAX_EVENTS {
                self.oracle.broken("O9", format!("more than {MAX_EVENTS} events: no end in sight"));
            }
        }
        self.counts.virtual_nanos = self.now;
        self.oracle.violation().cloned()
    }

    /// Virtual time in nanoseconds.
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    fn happens(&mut self, due: Due) {
        match due {
            Due::Disk { node, epoch, slot } => self.disk_ends(node, epoch, slot),
            Due::Deliver { link, from, channel } => self.deliver(link, from, channel),
            Due::LinkUp { link, end } => self.link_up(link, end),
            Due::LinkDown { link, end } => self.link_down(link, end),
            Due::Wake { node, epoch, stamp } => self.wake(node, epoch, stamp),
            Due::Client { connection } => self.client_asks(connection),
            Due::Tick => self.tick(),
            Due::Fault { entry } => self.strike(entry),
            Due::FaultEnds { entry } => self.strike_ends(entry),
            Due::Resume { node, epoch } => self.resume(node, epoch),
            Due::Boot { node } => self.boot(node),
        }
    }

    fn fresh_command(&mut self) -> CommandId {
        self.next_command += 1;
        CommandId(self.next_command)
    }

    /// Writes a line of the trace, if this run keeps one.
    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            if trace.len() == self.trace_lines {
                trace.pop_front();
            }
            trace.push_back(format!("{:>14.6} ms  {}", self.now as f64 / 1e6, line()));
        }
    }

    /// The last lines of the trace.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.trace.iter().flatten().cloned().collect()
    }
}
