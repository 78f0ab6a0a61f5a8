//! `kddmadm`: look at a cluster, change it, show what it does.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use kddm::default_data_dir;
use kddmd::admin::client::{Client, ClientError};
use kddmd::admin::protocol::{self, Action, Failure, Form};
use kddmd::admin::{events, sure::Sure};
use kddmd::data_dir::admin_socket;
use kddmd::demo::words::{self, Options};
use kddmd::demo::{DemoError, watched, worker};
use kddmd::playground::{self, PlaygroundError};
use kddmd::{bench, daemon, doctor, ending, guardian, history, show};
use serde_json::{Value as Json, json};

/// Administers and demonstrates KDDM clusters: a client of the daemon kddmd.
#[derive(Parser)]
#[command(name = "kddmadm", version)]
struct Cli {
    /// The admin socket of the daemon to talk to [default: KDDM_ADMIN, else that of the data directory].
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "data_dir")]
    admin: Option<PathBuf>,
    /// The data directory of the daemon to talk to [default: KDDM_DATA_DIR, else where kddmd has it].
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The cluster: who is in, who shares.
    #[command(subcommand)]
    Cluster(Cluster),
    /// The members and their states.
    Nodes,
    /// The sets of the cluster.
    #[command(visible_alias = "set")]
    Sets {
        #[command(subcommand)]
        which: Option<Sets>,
    },
    /// One object of a set: its value, in JSON or bytes, where it is, what is remembered of it.
    #[command(subcommand)]
    Object(Object),
    /// What is put and removed in a set, of whatever type, or of one object, a line an event, until Ctrl-C.
    Watch(events::Watch),
    /// What is wrong with the cluster, why, and what to do. Status 0: nothing; 1: something; 2: nobody could be asked.
    Doctor,
    /// The barriers of the cluster: who has to come, and who waits.
    Barriers,
    /// The latches of the cluster, and what remains to be counted down.
    Latches,
    /// The sources of unique ids of the cluster.
    Ids,
    #[command(flatten)]
    Lists(show::Lists),
    /// Who holds and who waits, on the daemon's node.
    Holders,
    /// What the daemon has counted.
    Stats,
    /// What the daemon counts, live.
    Top {
        /// Pause between two looks.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
        interval_ms: u64,
        /// Looks [default: until Ctrl-C].
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
    /// Real processes share objects before your eyes.
    Demo(DemoArguments),
    /// Measures what objects cost, in time beside a bare round trip and in messages.
    Bench(BenchArguments),
    /// Histories of operations on shared objects.
    #[command(subcommand)]
    History(History),
    /// One process of a benchmark's own cluster; started by it.
    #[command(hide = true)]
    BenchNode {
        /// The node to join by.
        #[arg(long)]
        contact: kddm::Address,
    },
    /// One process of the demo; started by it.
    #[command(hide = true)]
    DemoWorker(worker::Part),
    /// The guardian of the demo's processes; started by it.
    #[command(hide = true)]
    DemoGuardian(kddmd::guardian::Arguments),
    /// A cluster of daemons on this host that leaves nothing behind, for a command or until Ctrl-C.
    Playground {
        /// How many daemons.
        #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
        nodes: u16,
        /// What the daemons log.
        #[arg(long, default_value = "warn", value_name = "FILTER")]
        log: String,
        /// What to run in it, with KDDM_CONTACT and KDDM_ADMIN set: its output, and its exit status.
        #[arg(last = true)]
        command: Vec<OsString>,
    },
    /// Completions for a shell, on standard output.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// The manual page of kddmadm on standard output, or all pages of both programs in a folder.
    Man {
        /// The folder.
        dir: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum Cluster {
    /// Epoch, session, nodes.
    Status,
    /// Has online nodes share objects.
    Start(Which),
    /// Has a node hand over what it has, and share no more; or ends all daemons, and with them all objects.
    Stop {
        #[command(flatten)]
        which: Which,
        /// End all daemons without asking.
        #[arg(long, conflicts_with = "node")]
        yes: bool,
    },
}

#[derive(Subcommand)]
enum History {
    /// Whether a history is linearizable. Status 0: it is; 1: it is not; 2: unknown, or no history.
    Check {
        /// The file, - for standard input.
        file: PathBuf,
    },
}

#[derive(Args)]
struct Which {
    /// One node [default: all].
    #[arg(short = 'n', long = "node", value_parser = clap::value_parser!(u16).range(1..))]
    node: Option<u16>,
}

#[derive(Subcommand)]
enum Sets {
    #[command(flatten)]
    Ask(show::AskSet),
    Destroy(show::DestroySet),
}

#[derive(Args)]
struct Which1 {
    /// The set.
    set: String,
    /// The object, a number.
    id: u64,
}

#[derive(Args)]
struct Made {
    /// How many other nodes keep a copy of each object, if the set is made (1 unless given); one that exists must
    /// be so.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=7))]
    replicas: Option<u8>,
}

#[derive(Subcommand)]
enum Object {
    /// Where it is, who has it, who waits for it. For sets of any type.
    Show(Which1),
    /// What the members remember of its last owners and versions, while its set is watched. For sets of any type.
    History(Which1),
    /// Prints its value.
    Get {
        #[command(flatten)]
        which: Which1,
        /// How the value is written.
        #[arg(long = "as")]
        form: Option<Form>,
    },
    /// Writes its value; makes the set if there is none: of JSON with --as json, else of bytes.
    Put {
        #[command(flatten)]
        which: Which1,
        /// The value.
        #[arg(allow_hyphen_values = true)]
        value: String,
        /// How the value is written.
        #[arg(long = "as")]
        form: Option<Form>,
        #[command(flatten)]
        made: Made,
    },
    /// Adds to the number that it is; prints the sum.
    Incr {
        #[command(flatten)]
        which: Which1,
        /// How much.
        #[arg(default_value_t = 1, allow_hyphen_values = true)]
        by: i64,
        #[command(flatten)]
        made: Made,
    },
    /// Removes it everywhere.
    Remove {
        #[command(flatten)]
        which: Which1,
    },
    /// Accepts that it is lost: it has never existed, and can be made anew. For sets of any type.
    AcceptLoss {
        #[command(flatten)]
        which: Which1,
        #[command(flatten)]
        sure: Sure,
    },
}

#[derive(Args)]
struct DemoArguments {
    #[command(subcommand)]
    which: Option<Demo>,
    /// The folder whose words are counted [default: the current one].
    dir: Option<PathBuf>,
    /// Processes that count, each with a node of its own.
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// Kill one of them with SIGKILL in the middle of its work: nothing is lost, and nothing counted twice.
    #[arg(long, global = true)]
    kill: bool,
}

#[derive(Subcommand)]
enum Demo {
    /// Count the words of all text files below a folder, in several processes at once.
    Words {
        /// The folder [default: the current one].
        dir: Option<PathBuf>,
    },
}

/// Why the tool ends without success.
#[derive(Debug, thiserror::Error)]
enum ToolError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Demo(#[from] DemoError),
    #[error(transparent)]
    Playground(#[from] PlaygroundError),
    #[error("{0}")]
    Other(String),
    /// Whoever reads standard output has read enough.
    #[error("nobody reads the output")]
    Output(#[from] std::io::Error),
}

#[derive(Args)]
struct BenchArguments {
    /// Measure on a cluster of its own, so many processes on this host, gone afterwards [default: the
    /// cluster of the daemon].
    #[arg(long, value_name = "NODES", value_parser = clap::value_parser!(u16).range(2..=64))]
    local: Option<u16>,
    /// Operations of each case.
    #[arg(long, default_value_t = 10_000)]
    operations: usize,
    /// A case ends after so many milliseconds, however many operations there were.
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    case_limit_ms: u64,
}

fn main() -> ExitCode {
    // These two are other programs in the same file: their arguments are their own.
    let mut arguments = std::env::args_os();
    match arguments.nth(1).as_ref().and_then(|word| word.to_str()) {
        Some(playground::DAEMON) => {
            let all = std::iter::once("kddmd".into()).chain(arguments);
            return daemon::main(daemon::Arguments::parse_from(all));
        }
        Some(playground::COMMAND) => return playground::become_command(arguments).into(),
        _ => {}
    }
    let cli = Cli::parse();
    let json = cli.json;
    match run(cli) {
        Ok(status) => status.into(),
        Err(ToolError::Output(_)) => ExitCode::SUCCESS,
        Err(error) => tell(&error, json),
    }
}

/// Says why the tool has not done what it was to do.
fn tell(error: &ToolError, json: bool) -> ExitCode {
    if json {
        let failure = match error {
            ToolError::Client(ClientError::Refused(failure)) => failure.clone(),
            other => Failure::new(other.to_string()),
        };
        let _nobody_may_read = writeln!(std::io::stdout(), "{}", json!({ "error": failure }));
    }
    eprintln!("kddmadm: {error}");
    ExitCode::FAILURE
}

fn run(cli: Cli) -> Result<u8, ToolError> {
    let client = || client(cli.admin.clone(), cli.data_dir.clone());
    let ask = |command, shows: fn(&Json) -> String| -> Result<u8, ToolError> {
        let mut answer = Json::Null;
        client()?.watch(command, |next| {
            if let Some(progress) = next.get("progress") {
                eprintln!("node {}: {} objects left", progress["node"], progress["objects_left"]);
            }
            answer = next;
            true
        })?;
        print(&if cli.json { answer.to_string() } else { shows(&answer) })?;
        Ok(0)
    };
    match cli.command {
        Command::Cluster(Cluster::Status) => ask(protocol::Command::Status, show::status),
        Command::Cluster(Cluster::Start(which)) => ask(protocol::Command::Start { node: which.node }, show::status),
        Command::Cluster(Cluster::Stop { which, yes }) => match which.node {
            Some(_) => ask(protocol::Command::Stop { node: which.node }, show::status),
            None => finish(ending::run(&client()?, yes, cli.json), cli.json),
        },
        Command::Nodes => ask(protocol::Command::Status, show::nodes),
        Command::Sets { which: None } => ask(protocol::Command::Sets, show::sets),
        Command::Sets { which: Some(Sets::Ask(which)) } => {
            let (command, shows) = which.question().map_err(ToolError::Other)?;
            ask(command, shows)
        }
        Command::Sets { which: Some(Sets::Destroy(which)) } => finish(which.run(&client()?, cli.json), cli.json),
        Command::Object(object) => {
            let shows = object.shows();
            ask(object_command(object)?, shows)
        }
        Command::Watch(watch) => Ok(watch.run(&client()?, cli.json)?.map(|()| 0)?),
        Command::Doctor => finish(doctor::run(&client()?, cli.json), cli.json),
        Command::Barriers => ask(protocol::Command::Barriers, show::barriers),
        Command::Latches => ask(protocol::Command::Latches, show::latches),
        Command::Ids => ask(protocol::Command::Ids, show::ids),
        Command::Lists(list) => list.ask(ask),
        Command::Holders => ask(protocol::Command::Holders, show::holders),
        Command::Stats => ask(protocol::Command::Stats, show::pairs),
        Command::Top { interval_ms, count } => Ok(show::watch(&client()?, interval_ms, count, cli.json)?.map(|()| 0)?),
        Command::Bench(arguments) => run_bench(&arguments, client, cli.json),
        Command::History(History::Check { file }) => {
            let checked = history::check(&file);
            print(&if cli.json { checked.json().to_string() } else { checked.to_string() })?;
            Ok(checked.status())
        }
        Command::BenchNode { contact } => {
            bench::local::serve(&contact).map(|()| 0).map_err(|error| ToolError::Other(error.to_string()))
        }
        Command::Demo(demo) => {
            let dir = demo.which.map_or(demo.dir, |Demo::Words { dir }| dir).unwrap_or_else(|| PathBuf::from("."));
            let options = Options { dir, nodes: demo.nodes, json: cli.json, kill: demo.kill };
            Ok(u8::from(!words::run(&options)?))
        }
        Command::DemoWorker(part) => Ok(u8::from(!worker::run(&part)?)),
        Command::DemoGuardian(arguments) => Ok(u8::from(watched::run(arguments) != ExitCode::SUCCESS)),
        Command::Playground { nodes, log, command } => {
            Ok(playground::run(&playground::Options { nodes, command, json: cli.json, log })?)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "kddmadm", &mut script);
            std::io::stdout().write_all(&script)?;
            Ok(0)
        }
        Command::Man { dir } => man(dir),
    }
}

/// Status 1 where a case sent other messages than the budget allows.
fn run_bench(
    arguments: &BenchArguments,
    client: impl FnOnce() -> Result<Client, ToolError>,
    json: bool,
) -> Result<u8, ToolError> {
    let case_limit = Duration::from_millis(arguments.case_limit_ms);
    let Some(local) = arguments.local else {
        let command =
            protocol::Command::Bench { operations: arguments.operations, case_limit_ms: arguments.case_limit_ms };
        let bar = bench::local::bar();
        let mut last = Json::Null;
        client()?.watch(command, |answer| {
            if let Some(progress) = answer.get("progress") {
                bench::local::show(&bar, progress);
            }
            last = answer;
            true
        })?;
        bar.finish_and_clear();
        print(&if json { last["report"].to_string() } else { last["table"].as_str().unwrap_or_default().into() })?;
        return Ok(u8::from(last["off_budget"] != json!(0)));
    };
    let options = bench::Options { operations: arguments.operations, case_limit, ..bench::Options::default() };
    let report = bench::local::run(local, &options).map_err(|error| ToolError::Other(error.to_string()))?;
    print(&if json { json!(report).to_string() } else { report.table() })?;
    Ok(u8::from(report.off_budget().next().is_some()))
}

impl Object {
    fn shows(&self) -> fn(&Json) -> String {
        match self {
            Object::AcceptLoss { .. } => show::accepted,
            Object::Show(_) => show::detail,
            Object::History(_) => show::history,
            _ => show::object,
        }
    }
}

fn object_command(object: Object) -> Result<protocol::Command, ToolError> {
    let (which, form, replicas, action) = match object {
        Object::Show(Which1 { set, id }) => return Ok(protocol::Command::ObjectShow { set, id }),
        Object::History(Which1 { set, id }) => return Ok(protocol::Command::ObjectHistory { set, id }),
        Object::AcceptLoss { which: Which1 { set, id }, sure } => {
            let what = format!("object {id} of set {set:?}, if it is lost");
            sure.check(&what, &format!("kddmadm object accept-loss {set} {id}")).map_err(ToolError::Other)?;
            return Ok(protocol::Command::AcceptLoss { set, id: Some(id) });
        }
        Object::Get { which, form } => (which, form, None, Action::Get),
        Object::Put { which, value, form, made } => (which, form, made.replicas, Action::Put { value }),
        Object::Incr { which, by, made } => (which, None, made.replicas, Action::Incr { by }),
        Object::Remove { which } => (which, None, None, Action::Remove),
    };
    Ok(protocol::Command::Object { set: which.set, id: which.id, form, replicas, action })
}

/// Prints what there is to say, or why nobody could be asked.
fn finish((text, status): (Result<String, ClientError>, u8), json: bool) -> Result<u8, ToolError> {
    match text {
        Ok(text) => print(&text)?,
        Err(error) => _ = tell(&error.into(), json),
    }
    Ok(status)
}

/// The daemon to talk to.
fn client(admin: Option<PathBuf>, data_dir: Option<PathBuf>) -> Result<Client, ToolError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let of_dir = |dir: PathBuf| admin_socket(&dir);
    let socket = admin
        .or_else(|| data_dir.map(of_dir))
        .or_else(|| variable("KDDM_ADMIN"))
        .or_else(|| variable("KDDM_DATA_DIR").map(of_dir))
        .or_else(|| default_data_dir().map(of_dir));
    let unknown = "which daemon? neither HOME nor XDG_STATE_HOME is set; name one with --data-dir or --admin";
    socket.map(Client::new).ok_or_else(|| ToolError::Other(unknown.into()))
}

fn print(text: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{text}")
}

fn man(dir: Option<PathBuf>) -> Result<u8, ToolError> {
    match dir {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            std::io::stdout().write_all(&page)?;
        }
        Some(dir) => {
            let write = || -> std::io::Result<()> {
                std::fs::create_dir_all(&dir)?;
                clap_mangen::generate_to(Cli::command(), &dir)?;
                clap_mangen::generate_to(guardian::Arguments::command(), &dir)?;
                clap_mangen::generate_to(daemon::Arguments::command(), &dir)
            };
            write().map_err(|error| {
                ToolError::Other(format!("cannot write manual pages to {}: {error}", dir.display()))
            })?;
        }
    }
    Ok(0)
}
