//! The clients' side: connections follow the primary, ask, and judge the answers.

use bytes::Bytes;
use evenkeel_core::volume::{
    io::{ClientId, Event, RequestError, RequestId, RequestOutcome},
    span::ByteSpan,
};

use super::{Phase, World, agenda::Due};
use crate::{
    client::{Request, Wish},
    engine::Engine,
    payload::{self, SECTOR, WriteId},
    plan::SECOND,
};

impl<E: Engine> World<'_, E> {
    /// Connections without a node go to a primary, if there is one, and send again what was not answered.
    pub(super) fn attach_clients(&mut self) {
        if self.phase == Phase::Leaving {
            return;
        }
        let primary = (0..self.plan.nodes)
            .filter(|node| self.nodes[*node].runs() && self.nodes[*node].is_primary())
            .max_by_key(|node| self.nodes[*node].term());
        let Some(node) = primary else { return };
        for connection in 0..self.clients.connections.len() {
            if self.clients.connections[connection].node.is_none() {
                let id = self.clients.fresh_id();
                let this = &mut self.clients.connections[connection];
                this.node = Some(node);
                this.id = id;
                self.resend_all(connection);
                self.visit(connection);
            }
        }
    }

    fn visit(&mut self, connection: usize) {
        let pause = self.clients.pause(connection);
        let this = &mut self.clients.connections[connection];
        if !this.scheduled {
            this.scheduled = true;
            self.agenda.put(self.now + pause, Due::Client { connection });
        }
    }

    /// Sends again, in order, what has not been sent on this connection. An answer can come at once and move the
    /// requests behind it forward, or take the node away.
    fn resend_all(&mut self, connection: usize) {
        loop {
            let this = &self.clients.connections[connection];
            let unsent = this.waiting.iter().position(|request| request.sent.is_none());
            let Some(place) = unsent.filter(|_| this.node.is_some()) else { return };
            self.resend(connection, place);
        }
    }

    fn resend(&mut self, connection: usize, place: usize) {
        let id = self.clients.fresh_request();
        let request = &mut self.clients.connections[connection].waiting[place];
        request.id = id;
        request.sent = Some(self.now);
        match request.wish {
            Wish::Read(_) | Wish::Flush => {
                let read = matches!(request.wish, Wish::Read(_));
                if read {
                    self.oracle.read_ends(request.asked);
                }
                request.asked = self.oracle.asks(read);
            }
            // What was sent first may still take effect beside it, so it is another write for the oracle.
            Wish::Write { span, fua } => {
                let write = self.oracle.write_begins(span, false, fua, request.write);
                request.payload = Some(payload_of(write, span));
                request.write = Some(write);
            }
            Wish::Zero { span, fua, .. } => {
                request.write = Some(self.oracle.write_begins(span, true, fua, request.write));
            }
        }
        self.send_request(connection, place);
    }

    fn send_request(&mut self, connection: usize, place: usize) {
        let this = &self.clients.connections[connection];
        let Some(node) = this.node else { return };
        let (client, request) = (this.id, &this.waiting[place]);
        let event = Event::Request { client, id: request.id, operation: request.operation() };
        self.feed(node, event);
    }

    pub(super) fn client_asks(&mut self, connection: usize) {
        self.clients.connections[connection].scheduled = false;
        if !self.clients.may_ask(connection) {
            return;
        }
        let id = self.clients.fresh_request();
        let wish = self.clients.wish(connection);
        let mut request = Request { id, wish, write: None, payload: None, asked: 0, sent: Some(self.now) };
        match request.wish {
            Wish::Read(_) => request.asked = self.oracle.asks(true),
            Wish::Flush => request.asked = self.oracle.asks(false),
            Wish::Write { span, fua } => {
                let write = self.oracle.write_begins(span, false, fua, None);
                request.payload = Some(payload_of(write, span));
                request.write = Some(write);
            }
            Wish::Zero { span, fua, .. } => {
                request.write = Some(self.oracle.write_begins(span, true, fua, None));
            }
        }
        let this = &mut self.clients.connections[connection];
        this.waiting.push_back(request);
        let place = this.waiting.len() - 1;
        self.send_request(connection, place);
        self.visit(connection);
    }

    /// An answer comes.
    pub(super) fn reply(
        &mut self,
        node: usize,
        client: ClientId,
        id: RequestId,
        result: Result<RequestOutcome, RequestError>,
    ) {
        let place = self.clients.connections.iter().position(|connection| connection.id == client);
        let Some(connection) = place else { return };
        let waiting = &mut self.clients.connections[connection].waiting;
        let Some(place) = waiting.iter().position(|request| request.id == id) else {
            // A new name for the connection is given at each attach, so this answer is to nothing asked.
            self.oracle.broken("O8", format!("node {node} answered {id:?}, which waits for no answer"));
            return;
        };
        if matches!(result, Err(RequestError::Shutdown)) {
            self.detach(connection);
            return;
        }
        let request = waiting.remove(place).expect("it was found there");
        let by = self.answerer(node);
        if result.is_ok() {
            self.check_absence(node, "answered a client");
        }
        match (result, &request.wish) {
            (Ok(RequestOutcome::Data(data)), Wish::Read(span)) => {
                self.oracle.read_answered(*span, request.asked, &data, node);
            }
            (Ok(RequestOutcome::Done), Wish::Write { fua, .. } | Wish::Zero { fua, .. }) => {
                self.counts.acked_writes += 1;
                self.oracle.write_answered(request.write.expect("it writes"), by);
                if *fua {
                    self.check_stable(node, by.own_disk);
                }
            }
            (Ok(RequestOutcome::Done), Wish::Flush) => {
                self.oracle.flush_answered(request.asked, by);
                self.check_stable(node, by.own_disk);
            }
            // The operator forced a node that was away when the volume grew.
            (Err(RequestError::Invalid), wish) if wish.end() > self.size_bytes(node) => {
                self.counts.failed_requests += 1;
                self.oracle.read_ends(request.asked);
            }
            (Err(RequestError::Io), _) => {
                self.counts.failed_requests += 1;
                self.oracle.read_ends(request.asked);
            }
            (result, wish) => {
                self.oracle.broken("O8", format!("node {node} answered {wish:?} with {result:?}"));
            }
        }
        self.visit(connection);
    }

    fn size_bytes(&self, node: usize) -> u64 {
        self.nodes[node].status.as_ref().map_or(0, |status| status.size_bytes)
    }

    /// A connection is gone; what waits will be sent again elsewhere.
    pub(super) fn detach(&mut self, connection: usize) {
        let id = self.clients.fresh_id();
        let this = &mut self.clients.connections[connection];
        this.node = None;
        this.id = id;
        for request in &mut this.waiting {
            request.sent = None;
        }
    }

    /// A client's connection breaks.
    pub(super) fn disconnect_client(&mut self, connection: usize) {
        let this = &self.clients.connections[connection];
        let (node, id) = (this.node, this.id);
        self.detach(connection);
        if let Some(node) = node {
            self.feed(node, Event::ClientGone(id));
        }
    }

    /// All connections to a node are gone with its process.
    pub(super) fn detach_all(&mut self, node: usize) {
        for connection in 0..self.clients.connections.len() {
            if self.clients.connections[connection].node == Some(node) {
                self.detach(connection);
            }
        }
    }

    /// O9: no request waits longer than I/O may be held, while its node could answer.
    pub(super) fn check_patience(&mut self) {
        let margin = 200 * SECOND;
        let bound = u64::try_from(self.plan.hold.as_nanos()).expect("short") + margin;
        for this in &self.clients.connections {
            let Some(node) = this.node.filter(|node| self.nodes[*node].runs()) else { continue };
            if self.nodes[node].paused {
                continue;
            }
            let late =
                this.waiting.iter().find(|request| request.sent.is_some_and(|sent| sent + bound < self.now));
            if let Some(request) = late {
                let text =
                    format!("node {node} has not answered for {} s: {:?}", bound / SECOND, request.wish);
                self.oracle.broken("O9", text);
                return;
            }
        }
    }
}

fn payload_of(write: WriteId, span: ByteSpan) -> Bytes {
    payload::make(write, span.offset / SECTOR as u64, usize::try_from(span.len).expect("small") / SECTOR)
}
