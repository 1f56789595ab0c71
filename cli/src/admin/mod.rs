//! The admin API: HTTP and JSON over the unix socket `admin.sock` (`docs/admin-api.md`). The commands are thin over
//! it.
//!
//! | file | noun |
//! |---|---|
//! | `document` | what `status --json` and `events --json` show |
//! | `fault` | how a request fails, as JSON and as exit code |
//! | `server` | the socket, in the daemon |
//! | `route` | which request does what |
//! | `body` | a response, which says now and then that it is still being worked on |
//! | `client` | the other end, in the commands |

mod body;
pub(crate) mod client;
pub(crate) mod document;
pub(crate) mod fault;
pub(crate) mod route;
pub(crate) mod server;
