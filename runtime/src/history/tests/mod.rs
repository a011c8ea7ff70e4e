//! The history against logs made by hand.

mod bounds;
mod damage;
mod life;
mod support;
