//! RPC: the only rooms that name grpcio and ttrpc; bridges between bytes and `fn(&Call, Request) -> Result<Response>`.
pub mod grpc;
pub mod status;
pub mod ttrpc;
