//! A server on this machine, asked over its sockets.

mod server;
