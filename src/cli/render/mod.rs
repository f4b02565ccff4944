//! Data -> text for people: pure, so that what is shown can be tested without a terminal.

mod incident;
mod instances;
mod next;
mod observers;
mod palette;
mod plan;
mod status;
mod table;

pub use palette::{Ink, Palette, Symbol};
pub use plan::plan;
pub use status::status;
pub use table::{Column, Table, paragraph};
