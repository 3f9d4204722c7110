//! The docker command against a standalone agent, with a registry of this machine. Needs root, `docker` and `skopeo`.

mod api;
mod images;
mod life;
mod run;
mod support;
