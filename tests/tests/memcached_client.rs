//! The client of memcached against a server that misbehaves, and against a real one.
#![cfg(feature = "host")]

use memtier::compat::slab::Sample;
use memtier::observe::memcached::{
    Address, Answer, Auth, Command, Connection, Kind, Lever, Record, Said, Seen, Server, Table, TalkError, Watch, Watching, What,
};
use memtier::vocab::{ClassId, Place, Reply};
use memtier_tests::fake_memcached::{Act, FakeMemcached, healthy};
use memtier_tests::memcached::Memcached;
use memtier_tests::need;
use std::future::Future;
use std::io::Write as _;
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// Far beyond what any answer takes here.
const PATIENCE: Duration = Duration::from_secs(20);
/// To be waited for.
const SHORT: Duration = Duration::from_millis(200);

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

fn server(address: &str, patience: Duration) -> Server {
    Server { address: address.parse().expect("an address"), auth: None, patience }
}
fn unix(memcached: &Memcached) -> Server {
    server(&memcached.socket.display().to_string(), PATIENCE)
}
fn class(id: u8) -> Place {
    Place::Class(ClassId(id))
}

/// One server that does this with every line, asked for its slabs.
fn asked(patience: Duration, act: impl Fn(&str, usize) -> Act + Send + Sync + 'static) -> Result<String, TalkError> {
    let fake = FakeMemcached::start(act).expect("a port");
    run(async {
        let mut connection = Connection::open(&server(&fake.address(), patience)).await?;
        let [slabs] = connection.tables([Table::Slabs]).await?;
        Ok(slabs.iter().map(|(name, value)| format!("{name}={value} ")).collect())
    })
}

fn told(patience: Duration, act: impl Fn(&str, usize) -> Act + Send + Sync + 'static) -> String {
    let told = asked(patience, act).expect_err("it misbehaves").to_string();
    // Without the port.
    let at = told.find("127.0.0.1:").expect("the server is named");
    let port = told[at + 10..].chars().take_while(char::is_ascii_digit).count();
    format!("{}SERVER{}", &told[..at], &told[at + 10 + port..])
}

#[test]
fn a_server_that_misbehaves_is_an_error_that_names_it() {
    assert_eq!(told(PATIENCE, |_, _| Act::Close), "SERVER closed the connection, asked to stats slabs");
    assert_eq!(told(SHORT, |_, _| Act::Hang), "SERVER takes longer than 0.2 s to stats slabs");
    assert_eq!(told(PATIENCE, |_, _| Act::Say("what?".into())), "SERVER, asked to stats slabs, answers \"what?\"");
    assert_eq!(told(PATIENCE, |_, _| Act::Say("ERROR".into())), "SERVER, asked to stats slabs, refuses: ERROR");
    // Gone in the middle of an answer.
    let half = |line: &str, _| if line == "mn" { Act::Close } else { Act::Bytes(b"STAT 1:chunk_size 96\r\nSTAT 1:chu".to_vec()) };
    assert_eq!(told(PATIENCE, half), "SERVER closed the connection, asked to stats slabs");
    // It hangs in the middle of one.
    let half = |line: &str, _| if line == "mn" { Act::Hang } else { Act::Bytes(b"STAT 1:chunk_size 96\r\nSTAT 1:chu".to_vec()) };
    assert_eq!(told(SHORT, half), "SERVER takes longer than 0.2 s to stats slabs");
    // A line without an end, in a table without one.
    let long = |_: &str, _| Act::Bytes(vec![b'x'; 1 << 20]);
    assert_eq!(told(PATIENCE, long), "SERVER, asked to stats slabs, answers a line of more than 16384 bytes");
    let endless = |_: &str, _| Act::Bytes(b"STAT a 1\r\n".repeat(70_000));
    assert_eq!(told(PATIENCE, endless), "SERVER, asked to stats slabs, answers a table of more than 65536 lines");
    // One answer too many, before and after the fence.
    let twice = |line: &str, _| Act::Say(if line == "mn" { "MN".into() } else { "END\nEND".into() });
    assert_eq!(told(PATIENCE, twice), "SERVER, asked to stats slabs, answers \"END\"");
    let more = |line: &str, _| if line == "mn" { Act::Bytes(b"MN\r\nextra\r\n".to_vec()) } else { Act::Say("END".into()) };
    assert_eq!(told(PATIENCE, more), "SERVER, asked to stats slabs, answers \"extra\\r\\n\"");
}

#[test]
fn bytes_may_drip() {
    let drip = |line: &str, _| Act::Drip(if line == "mn" { "MN".into() } else { "STAT 1:chunk_size 96\nSTAT x a b\nEND".into() });
    assert_eq!(asked(PATIENCE, drip).expect("it answers"), "1:chunk_size=96 x=a b ");
    // Servers before 1.6 know no meta commands.
    let old = |line: &str, _| Act::Say(if line == "mn" { "ERROR".into() } else { "END".into() });
    assert_eq!(asked(PATIENCE, old).expect("it answers"), "");
}

#[test]
fn nobody_there() {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").to_string();
    let missing = memtier_tests::scratch().path().join("none.sock").display().to_string();
    for address in [address, missing] {
        let told = run(Connection::open(&server(&address, PATIENCE))).expect_err("nobody").to_string();
        assert!(told.starts_with(&format!("cannot connect to {address}: ")), "{told}");
    }
    // Taken in by the kernel and never served: half open for all that we can tell.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let begun = Instant::now();
    let error = run(async { Connection::open(&server(&address, SHORT)).await?.tables([Table::General]).await });
    assert!(matches!(error, Err(TalkError::Timeout { .. })) && begun.elapsed() < PATIENCE, "{error:?}");
}

#[test]
fn answers_of_several_commands_are_in_their_order() {
    let fake = FakeMemcached::start(|line, _| match line {
        "slabs reassign 1 2" => Act::Say("BUSY currently processing reassign request".into()),
        "extstore free_memchunks 1 5" => Act::Say("ERROR".into()),
        line => healthy(line, 1, 3, 1, &[(1, 96, 5, 0, 3)]),
    });
    let fake = fake.expect("a port");
    let answers = run(async {
        let commands = [
            Command::Set(Lever::Automove(0)),
            Command::Reassign { from: Some(class(1)), to: class(2) },
            Command::Set(Lever::FreeMemchunks(ClassId(1), 5)),
            Command::Stats(Table::Items),
        ];
        Connection::open(&server(&fake.address(), PATIENCE)).await?.talk(&commands).await
    });
    let replies: Vec<_> =
        answers.expect("it answers").iter().map(|a| if let Answer::Said(said) = a { Some(said.reply) } else { None }).collect();
    assert_eq!(replies, [Some(Reply::Ok), Some(Reply::Busy), Some(Reply::Error), None]);
    assert_eq!(fake.heard().last().map(String::as_str), Some("mn"));
}

#[test]
fn a_stream_says_what_is_missing() {
    let fake = FakeMemcached::start(|_, _| {
        let record = "ts=5.42 gid=7 type=eviction key=k fetch=no ttl=-1 la=3 clsid=5 size=10";
        Act::Say(format!("OK\n{record}\nskipped=12\ngarbage\n{record}"))
    });
    let fake = fake.expect("a port");
    run(async {
        let Ok(Watching::Stream(mut watch)) = Watch::open(&server(&fake.address(), PATIENCE), &[Kind::Evictions]).await else {
            panic!("no stream")
        };
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(match watch.next().await.expect("a line") {
                Seen::Record(Record { gid, .. }) => gid,
                Seen::Lost(count) => 1000 + count,
            });
        }
        assert_eq!(seen, [7, 1012, 1001, 7]);
        // Waiting may be broken off.
        assert!(tokio::time::timeout(SHORT, watch.next()).await.is_err());
    });
    assert_eq!(fake.heard(), ["watch evictions"]);
}

#[test]
fn a_stream_ends_with_an_error() {
    let cut = FakeMemcached::start(
        |line, _| if line == "watch evictions" { Act::Bytes(b"OK\r\nts=1.2 gid".to_vec()) } else { Act::Close },
    );
    let long = FakeMemcached::start(|_, _| Act::Bytes([b"OK\r\n".to_vec(), vec![b'x'; 1 << 20]].concat()));
    let told = |fake: &FakeMemcached| {
        run(async {
            let Ok(Watching::Stream(mut watch)) = Watch::open(&server(&fake.address(), PATIENCE), &[Kind::Evictions]).await else {
                panic!("no stream")
            };
            tokio::time::timeout(SHORT, watch.next()).await
        })
    };
    // Half a record is none yet.
    assert!(told(&cut.expect("a port")).is_err());
    assert!(matches!(told(&long.expect("a port")), Ok(Err(TalkError::Nonsense { .. }))));
}

#[test]
fn a_real_server() {
    let memcached = need!(Memcached::start(64, &[]));
    run(async {
        let mut connection = Connection::open(&unix(&memcached)).await.expect("it listens");
        let [general, settings, items, slabs] =
            connection.tables([Table::General, Table::Settings, Table::Items, Table::Slabs]).await.expect("it answers");
        assert_eq!(general.get("pid"), Some(memcached.pid().to_string().as_str()));
        assert_eq!(settings.get("slab_reassign"), Some("yes"));
        let sample = Sample::read(items.iter().chain(slabs.iter()), general.iter());
        let life = sample.life.expect("pid, time and uptime");
        assert_eq!((life.pid, sample.evictions, sample.pool), (memcached.pid(), Some(0), Some(0)));
        for (command, reply) in [
            (Command::Set(Lever::Automove(0)), Reply::Ok),
            (Command::Set(Lever::Automove(7)), Reply::Error),
            (Command::Set(Lever::AutomoveRatio(0.7)), Reply::Ok),
            // Of later servers.
            (Command::Set(Lever::AutomoveWindow(1)), Reply::ClientError),
            (Command::Set(Lever::FreeMemchunks(ClassId(1), 100)), Reply::Ok),
            (Command::Set(Lever::FreeMemchunks(ClassId(200), 100)), Reply::Error),
            (Command::Set(Lever::Extstore("no_such_lever".into(), 1)), Reply::Error),
            (Command::Reassign { from: Some(class(1)), to: class(1) }, Reply::Same),
            (Command::Reassign { from: Some(class(1)), to: class(2) }, Reply::NoSpare),
            (Command::Reassign { from: Some(class(200)), to: class(1) }, Reply::BadClass),
            (Command::Reassign { from: None, to: class(1) }, Reply::BadClass),
        ] {
            let said = connection.order(command.clone()).await.expect("it answers");
            assert_eq!(said.reply, reply, "{command}: {}", said.line);
        }
    });
}

#[test]
fn a_real_servers_evictions_and_fetches() {
    let memcached = need!(Memcached::start(8, &[]));
    let mut filler = memcached.connect().expect("it listens");
    run(async {
        let open = async |kind| match Watch::open(&unix(&memcached), &[kind]).await.expect("it answers") {
            Watching::Stream(watch) => watch,
            Watching::Lacking(said) => panic!("{said:?}"),
        };
        let (mut evictions, mut fetches) = (open(Kind::Evictions).await, open(Kind::Fetchers).await);
        let value = "x".repeat(10_000);
        for n in 0..1200 {
            write!(filler, "set key{n} 0 0 {} noreply\r\n{value}\r\n", value.len()).expect("it takes it");
        }
        write!(filler, "get key1199\r\nget none\r\n").expect("it takes it");
        let record = async |watch: &mut Watch| loop {
            match tokio::time::timeout(PATIENCE, watch.next()).await.expect("something happens").expect("a stream") {
                Seen::Record(record) => break record,
                Seen::Lost(_) => {}
            }
        };
        let Record { what, at_micros, .. } = record(&mut evictions).await;
        assert!(at_micros > 1_600_000_000_000_000);
        let What::Eviction { key, fetched, ttl, class, size, .. } = what else { panic!("{what:?}") };
        assert!(
            key.starts_with(b"key") && !fetched && ttl.is_none() && class.0 > 1 && size == Some(10_000),
            "{key:?} {class:?} {size:?}"
        );
        // A set looks for its key, too.
        let mut fetch = async |wanted: &str| loop {
            match record(&mut fetches).await.what {
                What::Fetch { key, found, class, .. } if key == wanted && (found || wanted == "none") => break (found, class),
                _ => {}
            }
        };
        assert_eq!(fetch("key1199").await, (true, Some(class)));
        assert_eq!(fetch("none").await, (false, None));
    });
}

#[test]
fn a_server_without_a_kind_of_stream_says_so() {
    let fake = FakeMemcached::start(|_, _| Act::Say("ERROR".into())).expect("a port");
    let opened = run(Watch::open(&server(&fake.address(), PATIENCE), &[Kind::Evictions, Kind::Sysevents]));
    assert!(matches!(opened, Ok(Watching::Lacking(Said { reply: Reply::Error, .. }))), "{opened:?}");
    assert_eq!(fake.heard(), ["watch evictions sysevents"]);
}

#[test]
fn who_asks_may_have_to_say_so() {
    let dir = memtier_tests::scratch();
    let file = dir.path().join("auth");
    std::fs::write(&file, "me:secret\n").expect("scratch");
    let memcached = need!(Memcached::start(8, &["-Y", &file.display().to_string()]));
    let with = |auth| run(async { Connection::open(&Server { auth, ..unix(&memcached) }).await?.tables([Table::General]).await });
    assert!(with(Auth::of_line("me:secret")).is_ok());
    let told = with(None).expect_err("nobody came in").to_string();
    assert!(told.ends_with("asked to stats, refuses: CLIENT_ERROR unauthenticated"), "{told}");
    let told = with(Auth::of_line("me:guess")).expect_err("nobody came in").to_string();
    assert!(told.ends_with("asked to let us in, refuses: CLIENT_ERROR authentication failure"), "{told}");
}

#[test]
fn over_tcp_of_both_kinds() {
    for host in ["127.0.0.1", "::1"] {
        let listener = TcpListener::bind((host, 0));
        let Ok(port) = listener.and_then(|l| l.local_addr()).map(|a| a.port()) else {
            memtier_tests::footing::elsewhere(&format!("no address {host}"));
            continue;
        };
        // Beside its socket a server has no ports.
        let memcached = need!(Memcached::listen(8, host, port));
        let address = Address::Tcp { host: host.into(), port };
        let server = Server { address, auth: None, patience: PATIENCE };
        let pid = run(async { Connection::open(&server).await?.tables([Table::General]).await }).expect("it answers");
        assert_eq!(pid[0].get("pid"), Some(memcached.pid().to_string().as_str()));
    }
}
