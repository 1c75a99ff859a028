//! Studies: charts.

mod chart;
