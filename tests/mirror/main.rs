//! Two and three real nodes: `evenkeel daemon` with real clients, real faults, and the judge at the end
//! (`tests/src/judge`).

mod chaos;
mod clients;
mod data;
mod disks;
mod failover;
mod filesystem;
mod growth;
mod impostor;
mod operator;
mod plain;
mod refused;
mod resync;
mod split_brain;
mod verify;
