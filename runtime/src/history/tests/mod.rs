//! The history against logs made by hand.

mod bounds;
mod damage;
mod life;
mod memory;
mod shared;
mod support;
