//! A client of `/api/v1`.
