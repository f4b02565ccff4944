//! The ordered, durable record of facts, and the only authority on who may act.
//!
//! The port is [`crate::ports::Ledger`]. [`FileLedger`] is for one daemon and needs no other service;
//! [`MemoryLedger`] is for the simulation and dies whenever it is told to. Nothing here decides anything: a ledger
//! keeps what it is given, in order, and says truthfully whether it did.

mod codec;
mod file;
mod memory;
mod permit;

pub use codec::{FRAME_BYTES_MAX, HEADER, Torn};
pub use file::{Contents, FileLedger, LedgerError, Opening, read};
pub use memory::{MemoryDisk, MemoryLedger, Sabotage};
pub use permit::{Durable, Permit, PermitExpired};
