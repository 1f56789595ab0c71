//! `[node.NAME]`: where a node is reached and by which key it is known.

use std::{collections::BTreeMap, net::SocketAddr};

use evenkeel_driver::identity::Fingerprint;

use super::{
    check,
    fault::Place,
    section::{Placed, Section},
};

/// One node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Where its peers reach it, over UDP.
    pub(crate) address: SocketAddr,
    /// The SHA-256 of its public key.
    pub(crate) fingerprint: Fingerprint,
    /// An extra NBD listener.
    pub(crate) nbd: Option<SocketAddr>,
}

/// A node as it was read, with the places of what is compared with other nodes.
#[derive(Debug)]
pub(super) struct NodeEntry {
    pub(super) name: String,
    pub(super) address: Option<Placed<SocketAddr>>,
    pub(super) fingerprint: Option<Placed<Fingerprint>>,
    nbd: Option<SocketAddr>,
}

impl NodeEntry {
    fn finish(self) -> Option<(String, Node)> {
        let node = Node { address: self.address?.value, fingerprint: self.fingerprint?.value, nbd: self.nbd };
        Some((self.name, node))
    }
}

/// All nodes, if each is complete.
pub(super) fn all(entries: Vec<NodeEntry>) -> Option<BTreeMap<String, Node>> {
    entries.into_iter().map(NodeEntry::finish).collect()
}

impl Node {
    pub(super) fn read((name, section): (&str, Section<'_, '_>)) -> NodeEntry {
        check::name(&section, "node", name, section.place());
        let address = section.required_text("address", "\"192.0.2.1:7801\"").and_then(|text| {
            let address = parse_address("address", text, &section)?;
            if address.ip().is_unspecified() || address.port() == 0 {
                let text = format!(
                    "address = \"{address}\": write the address and port at which peers reach this node"
                );
                section.faults().at(text_place(&section, "address"), text);
                return None;
            }
            Some(Placed { value: address, place: text.place })
        });
        let fingerprint = section
            .required_text("fingerprint", "\"sha256:…\", as `evenkeel init` prints it on that node")
            .and_then(|_| section.parsed("fingerprint"));
        let nbd = section.text("nbd").and_then(|text| parse_nbd(text, &section));
        section.finish();
        NodeEntry { name: name.to_owned(), address, fingerprint, nbd }
    }
}

fn text_place(section: &Section<'_, '_>, key: &'static str) -> Place {
    section.text(key).map_or(section.place(), |text| text.place)
}

fn parse_address(key: &str, text: Placed<&str>, section: &Section<'_, '_>) -> Option<SocketAddr> {
    let parsed = text.value.parse().ok();
    if parsed.is_none() {
        let fault = format!(
            "{key} = \"{}\" is not an address with a port; write it as 192.0.2.1:7801 or [2001:db8::1]:7801",
            text.value
        );
        section.faults().at(text.place, fault);
    }
    parsed
}

/// NBD has neither encryption nor a password: only this machine itself may use it over TCP.
fn parse_nbd(text: Placed<&str>, section: &Section<'_, '_>) -> Option<SocketAddr> {
    let Some(address) = text.value.strip_prefix("tcp:") else {
        let fault = format!("nbd = \"{}\": write it as tcp:127.0.0.1:10809", text.value);
        section.faults().at(text.place, fault);
        return None;
    };
    let address = parse_address("nbd", Placed { value: address, place: text.place }, section)?;
    if !address.ip().is_loopback() {
        let fault = format!(
            "nbd = \"{}\": NBD over TCP is not encrypted, so only loopback is allowed; write tcp:127.0.0.1:{} and \
             reach it through a tunnel (ssh -L)",
            text.value,
            address.port()
        );
        section.faults().at(text.place, fault);
        return None;
    }
    Some(address)
}
