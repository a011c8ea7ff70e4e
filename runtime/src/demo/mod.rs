//! `dpc demo`: the acceptance story, told on real node processes.

mod history;
