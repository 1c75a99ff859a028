//! Many pictures looked at together: what the paper's figures and tables show, measured on a model at hand.
//!
//! | file | what it does |
//! | --- | --- |
//! | `chart`, `raster` | curves on axes, as SVG and as pixels |

mod chart;
mod raster;

pub use chart::{Chart, Curve};
