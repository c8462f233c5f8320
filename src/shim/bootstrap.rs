//! Bootstrap: how a daemon tells `start` what it wants, and in which form it expects the answer. Three generations are spoken.
//!
//! containerd 2.3 and later send a binary message on standard input and read one back; a JSON form of it was documented before.
//! Older ones send the runtime's options, or nothing, and everything else by flags and environment: since 1.7 they name the
//! highest task API version that they speak and read JSON, before that a bare address.
use super::args::Args;
use crate::error::{Context, Error, Result};
use crate::proto::bootstrap::{BootstrapParams, BootstrapResult};
use crate::proto::runc_options::Options;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use serde::{Deserialize, Serialize};

/// Highest task API version served.
const VERSION: i32 = 3;

/// How the answer is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// `unix:///path`.
    Bare,
    /// `{"version":3,"address":…,"protocol":"ttrpc"}`.
    Json(i32),
    /// BootstrapResult.
    Binary,
}

/// What `start` needs to know.
#[derive(Debug)]
pub struct Bootstrap {
    /// Form of the answer.
    pub form: Form,
    /// The daemon's TTRPC socket, for events.
    pub ttrpc_address: String,
    /// The daemon's gRPC socket; part of the socket's name.
    pub grpc_address: String,
    /// Where sockets go, if the daemon says so.
    pub socket_dir: Option<String>,
    /// Whether debug lines are wanted.
    pub debug: bool,
    /// Options of the OCI runtime, if they came along.
    pub options: Option<Options>,
}

/// JSON form of the parameters.
#[derive(Deserialize, Default)]
#[serde(default)]
struct JsonParams {
    #[serde(alias = "instanceId", alias = "instanceID")]
    instance_id: String,
    namespace: String,
    #[serde(alias = "containerdTtrpcAddress")]
    containerd_ttrpc_address: String,
    #[serde(alias = "containerdGrpcAddress")]
    containerd_grpc_address: String,
    #[serde(alias = "socketDir")]
    socket_dir: Option<String>,
}

#[derive(Serialize)]
struct JsonResult<'a> {
    version: i32,
    address: &'a str,
    protocol: &'a str,
}

impl Bootstrap {
    /// Reads standard input's bytes beside flags and environment.
    pub fn read(input: &[u8], args: &Args, env: impl Fn(&str) -> Option<String>) -> Result<Bootstrap> {
        let told = |value: &str, name: &str, flag: &str| -> String {
            Some(value.to_string()).filter(|v| !v.is_empty()).or_else(|| env(name)).unwrap_or_else(|| flag.to_string())
        };
        if input.first() == Some(&b'{') {
            let params: JsonParams = serde_json::from_slice(input).during(|| "read JSON bootstrap parameters from stdin")?;
            check(args, &params.instance_id, &params.namespace)?;
            return Ok(Bootstrap {
                form: Form::Json(VERSION),
                ttrpc_address: told(&params.containerd_ttrpc_address, "TTRPC_ADDRESS", ""),
                grpc_address: told(&params.containerd_grpc_address, "GRPC_ADDRESS", &args.address),
                socket_dir: params.socket_dir.filter(|d| !d.is_empty()),
                debug: args.debug,
                options: None,
            });
        }
        if let Some(params) = binary(input, args)? {
            let options = params.extensions.iter().filter_map(|e| e.value.as_ref()).find_map(runc_options);
            return Ok(Bootstrap {
                form: Form::Binary,
                ttrpc_address: told(&params.containerd_ttrpc_address, "TTRPC_ADDRESS", ""),
                grpc_address: told(&params.containerd_grpc_address, "GRPC_ADDRESS", &args.address),
                socket_dir: params.socket_dir.filter(|d| !d.is_empty()),
                // Levels go down from 0 = info: -4 is debug, -8 trace.
                debug: args.debug || params.log_level.value() < 0,
                options,
            });
        }
        let version = env("MAX_SHIM_VERSION").and_then(|v| v.parse::<i32>().ok()).filter(|v| *v >= 2);
        Ok(Bootstrap {
            form: version.map_or(Form::Bare, |v| Form::Json(v.min(VERSION))),
            ttrpc_address: told("", "TTRPC_ADDRESS", ""),
            grpc_address: told(&args.address, "GRPC_ADDRESS", ""),
            socket_dir: None,
            debug: args.debug,
            options: Any::parse_from_bytes(input).ok().as_ref().and_then(runc_options),
        })
    }
    /// The answer that the daemon expects.
    pub fn answer(&self, address: &str) -> Result<Vec<u8>> {
        match self.form {
            Form::Bare => Ok(address.as_bytes().to_vec()),
            Form::Json(version) => {
                serde_json::to_vec(&JsonResult { version, address, protocol: "ttrpc" }).during(|| "write the bootstrap answer")
            }
            Form::Binary => {
                let mut result = BootstrapResult::new();
                result.version = VERSION;
                result.address = address.into();
                result.protocol = "ttrpc".into();
                result.write_to_bytes().during(|| "write the bootstrap answer")
            }
        }
    }
}

/// The binary parameters, unless the input is empty or an older daemon's options: there the first text is a type's name.
fn binary(input: &[u8], args: &Args) -> Result<Option<BootstrapParams>> {
    let Some(params) = BootstrapParams::parse_from_bytes(input).ok().filter(|p| !p.instance_id.is_empty()) else { return Ok(None) };
    if params.instance_id != args.id && Any::parse_from_bytes(input).is_ok_and(|any| any.type_url.contains(['.', '/'])) {
        return Ok(None);
    }
    check(args, &params.instance_id, &params.namespace)?;
    Ok(Some(params))
}

fn check(args: &Args, id: &str, namespace: &str) -> Result<()> {
    if id == args.id && namespace == args.namespace {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "bootstrap parameters are for {namespace}/{id}, the flags say {}/{}: both must be the same",
        args.namespace, args.id
    )))
}

/// runc's options out of an Any, whatever prefix its type's name has.
pub fn runc_options(any: &Any) -> Option<Options> {
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    (name == "containerd.runc.v1.Options").then(|| Options::parse_from_bytes(&any.value).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::bootstrap::Extension;

    fn args() -> Args {
        super::super::args::parse("-namespace k8s.io -id web.1 -address /run/c.sock start".split(' ').map(String::from)).unwrap()
    }

    fn options() -> Any {
        let mut options = Options::new();
        options.shim_cgroup = "/shims".into();
        let mut any = Any::new();
        any.type_url = "containerd.runc.v1.Options".into();
        any.value = options.write_to_bytes().unwrap();
        any
    }

    fn env(version: Option<&'static str>) -> impl Fn(&str) -> Option<String> {
        move |name| match name {
            "MAX_SHIM_VERSION" => version.map(String::from),
            "TTRPC_ADDRESS" => Some("/run/c.sock.ttrpc".into()),
            _ => None,
        }
    }

    #[test]
    fn a_daemon_of_1_6_gets_a_bare_address() {
        let bootstrap = Bootstrap::read(&[], &args(), env(None)).unwrap();
        assert_eq!((&*bootstrap.ttrpc_address, &*bootstrap.grpc_address), ("/run/c.sock.ttrpc", "/run/c.sock"));
        assert_eq!(bootstrap.answer("unix:///s").unwrap(), b"unix:///s");
    }

    #[test]
    fn a_daemon_of_2_0_sends_options_and_gets_json() {
        let bootstrap = Bootstrap::read(&options().write_to_bytes().unwrap(), &args(), env(Some("3"))).unwrap();
        assert_eq!(bootstrap.options.as_ref().unwrap().shim_cgroup, "/shims");
        assert_eq!(bootstrap.answer("unix:///s").unwrap(), br#"{"version":3,"address":"unix:///s","protocol":"ttrpc"}"#);
        assert_eq!(Bootstrap::read(&[], &args(), env(Some("2"))).unwrap().form, Form::Json(2));
    }

    #[test]
    fn a_daemon_of_2_3_speaks_binary() {
        let mut params = BootstrapParams::new();
        params.instance_id = "web.1".into();
        params.namespace = "k8s.io".into();
        params.containerd_ttrpc_address = "/t".into();
        params.socket_dir = Some("/state/s".into());
        params.log_level = protobuf::EnumOrUnknown::from_i32(-4);
        params.extensions.push(Extension { value: Some(options()).into(), ..Extension::new() });
        let bootstrap = Bootstrap::read(&params.write_to_bytes().unwrap(), &args(), env(Some("3"))).unwrap();
        assert_eq!((bootstrap.form, &*bootstrap.ttrpc_address, bootstrap.debug), (Form::Binary, "/t", true));
        assert_eq!(bootstrap.socket_dir.as_deref(), Some("/state/s"));
        assert_eq!(bootstrap.options.as_ref().unwrap().shim_cgroup, "/shims");
        let answer = BootstrapResult::parse_from_bytes(&bootstrap.answer("unix:///s").unwrap()).unwrap();
        assert_eq!((answer.version, &*answer.address, &*answer.protocol), (3, "unix:///s", "ttrpc"));
        params.namespace = "other".into();
        assert!(Bootstrap::read(&params.write_to_bytes().unwrap(), &args(), env(None)).is_err());
    }

    #[test]
    fn json_parameters_get_a_json_answer() {
        let bootstrap = Bootstrap::read(br#"{"instance_id":"web.1","namespace":"k8s.io","socket_dir":"/d"}"#, &args(), env(None)).unwrap();
        assert_eq!((bootstrap.form, bootstrap.socket_dir.as_deref()), (Form::Json(3), Some("/d")));
    }
}
