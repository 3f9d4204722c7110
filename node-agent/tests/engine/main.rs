//! The engine against the real kernel, with real shims. Needs root; says so and does nothing without.

mod agent_death;
mod life;
mod log;
mod spec;
mod support;
