//! The image store against what registries and images' authors may come up with: hostile layers through the real,
//! confined unpacker, and pulls from a server that misbehaves on demand. Needs root, as the agent does.

mod layer;
mod pull;
mod server;
mod store;
mod unpack;
