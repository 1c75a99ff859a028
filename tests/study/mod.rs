//! Studies: statistics against closed forms, charts, and whole runs on the demo model.

mod chart;
mod reference;
mod runs;
mod stats;
