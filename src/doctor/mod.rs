//! What a driver gets right: each tier of kernels on an adapter, beside the host twin; limits tried for real; a picture beside the
//! processor's where the demo model is built in.
//!
//! | file | what it does |
//! | --- | --- |
//! | `examine` | opens an adapter with each tier, runs cases and probes |
//! | `cases` | small recordings that use every kernel |
//! | `probes` | kernels that ask one thing each |
//! | `report` | what was found, for a user and for [`pipeline::Findings`](crate::pipeline::Findings) |

mod cases;
mod examine;
mod probes;
mod report;

pub use examine::examine;
#[doc(hidden)]
pub use examine::{SMALL, examine_some};
#[doc(hidden)]
pub use probes::probes;
pub use report::{Examination, Progress, TierReport, Verdict};
