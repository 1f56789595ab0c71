//! A volume under load while faults happen to its cluster, and the judge's word at the end.
//!
//! The test says what it does to the nodes; the trial records when each fault began and when its effect was over,
//! follows the primary with the load, and reads the images.

use anyhow::{Context, Result, ensure};

use super::{Cluster, Node, VolumeStatus, node::LIMIT};
use crate::{
    judge::{Clock, Fault, History, Permits, Promise, Snapshot, convergence, judge},
    load::{Load, LoadOptions},
    tools::wait_until,
};

/// A running trial.
#[derive(Debug)]
pub struct Trial<'a> {
    cluster: &'a Cluster,
    /// The volume's name.
    volume: String,
    tag: u32,
    clock: Clock,
    /// The load.
    pub load: Load,
    /// Index of the primary.
    primary: usize,
    faults: Vec<Fault>,
    snapshots: Vec<Snapshot>,
}

impl<'a> Trial<'a> {
    /// Waits until all nodes are in sync, promotes the first, and sends the load there.
    ///
    /// # Errors
    /// One of these does not happen.
    pub fn start(cluster: &'a Cluster, options: LoadOptions) -> Result<Self> {
        let volume = options.export.clone();
        for node in &cluster.nodes {
            node.wait_synced(&volume)?;
        }
        cluster.nodes[0].primary(&volume)?;
        let clock = Clock::start();
        let tag = options.volume;
        let load = Load::new(options, clock);
        load.to(cluster.nodes[0].nbd());
        load.wait_for_writes(1)?;
        Ok(Self { cluster, volume, tag, clock, load, primary: 0, faults: Vec::new(), snapshots: Vec::new() })
    }

    /// The primary.
    #[must_use]
    pub fn primary(&self) -> &'a Node {
        &self.cluster.nodes[self.primary]
    }

    /// Index of the primary.
    #[must_use]
    pub fn primary_index(&self) -> usize {
        self.primary
    }

    /// With two nodes, the index of the other one.
    #[must_use]
    pub fn secondary_index(&self) -> usize {
        1 - self.primary
    }

    /// With two nodes, the other one.
    #[must_use]
    pub fn secondary(&self) -> &'a Node {
        &self.cluster.nodes[self.secondary_index()]
    }

    /// The clock of the trial.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Does something to the cluster, up to and including that its effect is over, and notes it as a fault of which
    /// clients may see so much.
    ///
    /// # Errors
    /// Those of what is done.
    pub fn fault(
        &mut self,
        what: &str,
        permits: Permits,
        act: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let from = self.clock.now();
        act(self).with_context(|| format!("fault {}: {what}", self.faults.len() + 1))?;
        self.faults.push(Fault { what: what.to_owned(), permits, from, until: self.clock.now() });
        Ok(())
    }

    /// Waits until the nodes are in sync.
    ///
    /// # Errors
    /// They are not in time.
    pub fn wait_synced(&self) -> Result<()> {
        self.primary().wait_synced(&self.volume)
    }

    /// Waits until the primary has noticed that this node is gone.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_until_lost(&self, node: usize) -> Result<VolumeStatus> {
        let name = self.cluster.nodes[node].name().to_owned();
        self.primary().wait_for(&self.volume, &format!("{name} is lost"), |status| {
            status.peer(&name).connection != "connected" && status.peer(&name).replication == "off"
        })
    }

    /// Makes another node primary by force, after the primary is gone, and sends the load there. What that node
    /// must hold decides whether an image of it is read first.
    ///
    /// # Errors
    /// It is refused, or does not serve.
    pub fn promote_by_force(&mut self, node: usize, promise: Promise) -> Result<()> {
        self.load.away()?;
        let next = &self.cluster.nodes[node];
        if self.cluster.nodes.len() > 2 {
            // The survivors have to notice the loss and to become equal first (P3, G9); until then it is refused.
            let mut last = String::new();
            wait_until("the survivors allow a promotion", LIMIT, || match next.force_primary(&self.volume) {
                Ok(()) => true,
                Err(error) => {
                    last = format!("{error:#}");
                    false
                }
            })
            .context(last)?;
        } else {
            // At once: the other finds out by asking (P3).
            next.force_primary(&self.volume)?;
        }
        self.primary = node;
        if promise != Promise::Answered {
            self.read_image(node, promise)?;
        }
        self.load.to(next.nbd());
        self.load.wait_for_writes(1)
    }

    /// Reads a node's image while nobody writes to it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_image(&mut self, node: usize, promise: Promise) -> Result<()> {
        let node = &self.cluster.nodes[node];
        let image =
            convergence::snapshot(node.name(), &node.data(&self.volume), self.tag, promise, &self.clock)?;
        self.snapshots.push(image);
        Ok(())
    }

    /// Ends the load, waits until the nodes are in sync, demotes the primary, checks that all images are equal, and
    /// calls the judge.
    ///
    /// # Errors
    /// Any of these fails.
    pub fn finish(mut self) -> Result<History> {
        self.load.pause()?;
        self.wait_synced()?;
        self.primary().secondary(&self.volume)?;
        let nodes = &self.cluster.nodes;
        for node in 0..nodes.len() {
            self.read_image(node, Promise::Answered)?;
        }
        let operations = self.load.finish()?;
        let history =
            History { volume: self.tag, operations, snapshots: self.snapshots, faults: self.faults };
        println!("{}: {}", self.volume, history.summary());
        judge(&history).check()?;
        for node in &nodes[1..] {
            convergence::images_equal(self.tag, &nodes[0].data(&self.volume), &node.data(&self.volume))?;
        }
        ensure!(history.acknowledged_writes() > 0, "nothing was written");
        Ok(history)
    }
}
