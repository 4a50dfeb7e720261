//! memcached servers of the configuration: who watches each, and the hand that moves a page of one or stills its own mover.
//!
//! A step for a server is a task of its own: a server that hangs delays nobody but itself. What a step came to is read back from
//! the server, and the look that follows is in the stream before the outcome.
//!
//! Deliberately absent: which page goes where (policy/slab), and retries.

use super::automove;
use super::footprint::Shared;
use super::ingest::Inlet;
use super::levers::{self, ServerSetting, What};
use super::lock::Lock;
use crate::compat::slab::Sample as Counters;
use crate::config::{CacheRule, Config};
use crate::observe::Observer as _;
use crate::observe::memcached::{
    Address, Answer, CacheEyes, Command, Connection, Lever, Manner, Poke, Server, Stats, Table, TalkError,
};
use crate::sys::clock::boottime;
use crate::vocab::{
    Action, Amount, CacheSample, CacheTold, ClassId, End, Event, Fault, Guard, Outcome, Pages, Place, PolicyId, Reply, Sample,
    ServerId, ServerLife, Source, Step,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

/// A page that was accepted and does not come is given up after this; the next look tells if it is still on its way.
const MOVE_MOST: Duration = Duration::from_secs(4);
/// Between two looks at whether it came: it takes about a millisecond, and longer where items are in use.
const POLL_FIRST: Duration = Duration::from_millis(1);
const POLL_MOST: Duration = Duration::from_millis(64);

/// Everything about the servers that the loop steers and the hand needs.
#[derive(Clone, Debug)]
pub struct Caches(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    inlet: Inlet,
    runtime: Handle,
    footprint: Shared,
    run_dir: PathBuf,
    watched: Mutex<BTreeMap<ServerId, Watched>>,
    said: Mutex<Option<bool>>,
}

#[derive(Debug)]
struct Watched {
    rule: CacheRule,
    manner: Manner,
    pump: AbortHandle,
    post: Arc<Post>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

/// How the hand reaches one server.
#[derive(Debug)]
struct Post {
    server: Server,
    auth_file: Option<PathBuf>,
    poke: Poke,
    /// One step at a time, on a connection that is kept between them.
    line: tokio::sync::Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    connection: Option<Connection>,
    /// No other memtier moves pages of it.
    lock: Option<Lock>,
}

impl Caches {
    #[must_use]
    pub fn new(inlet: &Inlet, runtime: &Handle, footprint: &Shared, run_dir: &Path) -> Self {
        let inner = Inner {
            inlet: inlet.clone(),
            runtime: runtime.clone(),
            footprint: footprint.clone(),
            run_dir: run_dir.to_owned(),
            watched: Mutex::default(),
            said: Mutex::default(),
        };
        Self(Arc::new(inner))
    }

    /// Brings what is watched to what the configuration says; servers that stay as they are are left alone.
    pub fn apply(&self, config: &Config) {
        let patience = Duration::from_millis(config.caches.timeout_ms);
        let mut watched = self.0.watched.lock().unwrap_or_else(PoisonError::into_inner);
        self.sight(!config.cache.is_empty());
        watched.retain(|id, old| {
            let same = |rule: &&CacheRule| **rule == old.rule && old.manner == manner(config, rule);
            config.cache.get(usize::from(id.0)).filter(same).is_some() && old.post.server.patience == patience
        });
        for (id, rule) in (0..).map(ServerId).zip(&config.cache) {
            if watched.contains_key(&id) {
                continue;
            }
            match server(rule, patience) {
                Ok(server) => drop(watched.insert(id, self.watch(id, rule, server, manner(config, rule)))),
                Err(why) => self.tell(id, why),
            }
        }
    }

    /// Says whether there is any server to be told of, when that changes.
    fn sight(&self, any: bool) {
        let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.replace(any) != Some(any) {
            let source = Source::Caches;
            self.put(if any { Event::Sight { source } } else { Event::Blind { source, why: "no [[cache]] rule".to_owned() } });
        }
    }

    fn put(&self, event: Event) {
        let inlet = self.0.inlet.clone();
        self.0.runtime.spawn(async move { inlet.put(event).await });
    }

    fn watch(&self, id: ServerId, rule: &CacheRule, server: Server, manner: Manner) -> Watched {
        let _entered = self.0.runtime.enter();
        let (mut eyes, poke) = CacheEyes::new(id, server.clone(), manner);
        let inlet = self.0.inlet.clone();
        let pump = self.0.runtime.spawn(async move {
            loop {
                let event = eyes.next().await;
                if !inlet.put(event).await {
                    return;
                }
            }
        });
        let auth_file = rule.auth_file.as_ref().map(PathBuf::from);
        let post = Arc::new(Post { server, auth_file, poke, line: tokio::sync::Mutex::default() });
        Watched { rule: rule.clone(), manner, pump: pump.abort_handle(), post }
    }

    fn tell(&self, server: ServerId, why: String) {
        self.put(Event::Sample(Sample::Cache(CacheSample { server, told: CacheTold::Blind { why } })));
    }

    /// Carries out a step about a server: exactly one outcome, whatever happens.
    pub async fn carry_out(&self, step: &Step) -> Outcome {
        let began = boottime();
        let (moved, end) = match self.post(step) {
            Some(post) => match self.at_server(&post, step).await {
                Ok(()) => (1, End::Done),
                Err(end) => (0, end),
            },
            None => (0, failed(step, "no rule names it any more")),
        };
        let done = Amount { pages: Pages(moved), asked: Pages(1), syscalls: 0, cpu_ns: 0 };
        Outcome { step: step.id, began, ended: boottime(), done, end, missed: Vec::new() }
    }

    fn post(&self, step: &Step) -> Option<Arc<Post>> {
        let watched = self.0.watched.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&watched.get(&step.action.server()?)?.post))
    }

    async fn at_server(&self, post: &Post, step: &Step) -> Result<(), End> {
        match step.action {
            Action::SetWatch { on, .. } => watch(post, step, on).await,
            Action::Scan { .. }
            | Action::Arm { .. }
            | Action::PageOut { .. }
            | Action::Deactivate { .. }
            | Action::Bind { .. }
            | Action::MovePages { .. }
            | Action::Migrate { .. }
            | Action::MoveSlabPage { .. }
            | Action::SetMover { .. }
            | Action::SetFree { .. } => self.at(post, step).await,
        }
    }

    async fn at(&self, post: &Post, step: &Step) -> Result<(), End> {
        let mut line = post.line.lock().await;
        if line.lock.is_none() {
            let dir = automove::dir(&self.0.run_dir, &post.server.address.to_string());
            line.lock = Some(Lock::take(&dir, "run").map_err(|error| failed(step, &error.to_string()))?);
        }
        let mut connection = match line.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&post.server).await.map_err(|error| broken(step, &error))?,
        };
        let end = match &step.action {
            Action::MoveSlabPage { from, to, .. } => move_page(&mut connection, step, *from, *to).await,
            Action::SetMover { mode, .. } => self.set_mover(post, &mut connection, step, *mode).await,
            Action::SetFree { chunks, .. } => self.set_free(post, &mut connection, step, chunks).await,
            Action::Scan { .. }
            | Action::Arm { .. }
            | Action::PageOut { .. }
            | Action::Deactivate { .. }
            | Action::Bind { .. }
            | Action::MovePages { .. }
            | Action::Migrate { .. }
            | Action::SetWatch { .. } => Err(Trouble::Ends(failed(step, "it is not about a server"))),
        };
        let end = match end {
            Ok(()) => Ok(()),
            Err(Trouble::Ends(end)) => Err(end),
            // What comes next on it may be the answer to something else.
            Err(Trouble::Talk(error)) => return Err(broken(step, &error)),
        };
        line.connection = Some(connection);
        drop(line);
        // Longer than a look takes at all.
        if timeout(post.server.patience * 2, post.poke.look()).await.is_err() {
            tracing::debug!(server = %post.server.address, "no look after a step");
        }
        end
    }

    /// The log knows how to put them back before they change.
    async fn set_free(
        &self,
        post: &Post,
        connection: &mut Connection,
        step: &Step,
        chunks: &[(ClassId, u64)],
    ) -> Result<(), Trouble> {
        let [general] = connection.tables([Table::General]).await?;
        let life = same_life(step, &general)?;
        still_meant(step)?;
        let (address, auth_file) = (post.server.address.to_string(), post.auth_file.clone());
        let setting = |&(class, chunks): &(ClassId, u64)| {
            let (server, auth_file) = (address.clone(), auth_file.clone());
            (ServerSetting { server, auth_file, life, what: What::FreeMemchunks(class) }, chunks)
        };
        let settings: Vec<(ServerSetting, u64)> = chunks.iter().map(setting).collect();
        let (footprint, all) = (self.0.footprint.clone(), settings.clone());
        let kept = tokio::task::spawn_blocking(move || {
            let mut footprint = footprint.lock();
            footprint.outlived(&address, life)?;
            all.iter().try_for_each(|(setting, chunks)| footprint.announce(setting, None, &chunks.to_string()))
        });
        let kept = kept.await.map_err(|error| failed(step, &error.to_string())).map_err(Trouble::Ends)?;
        kept.map_err(|error| Trouble::Ends(failed(step, &error.to_string())))?;
        let orders: Vec<Command> =
            chunks.iter().map(|(class, chunks)| Command::Set(Lever::FreeMemchunks(*class, *chunks))).collect();
        let refused = connection.talk(&orders).await?.into_iter().find_map(|answer| match answer {
            Answer::Said(said) if said.reply != Reply::Ok => Some(said.line),
            Answer::Said(_) | Answer::Stats(_) => None,
        });
        // Whoever put things back meanwhile did so before this.
        let footprint = self.0.footprint.clone();
        let held = move || settings.iter().all(|(setting, _)| footprint.lock().holds(setting));
        if !tokio::task::spawn_blocking(held).await.unwrap_or(false) {
            let back: Vec<Command> = chunks.iter().map(|(class, _)| Command::Set(Lever::FreeMemchunks(*class, 0))).collect();
            connection.talk(&back).await?;
            return Err(Trouble::Ends(failed(step, "they were to be put back meanwhile")));
        }
        // What it refuses it would refuse again.
        refused.map_or(Ok(()), |line| Err(Trouble::Ends(End::Partial(line))))
    }

    /// The log knows how to put it back before it changes.
    async fn set_mover(&self, post: &Post, connection: &mut Connection, step: &Step, mode: u8) -> Result<(), Trouble> {
        let [general, settings] = connection.tables([Table::General, Table::Settings]).await?;
        let life = same_life(step, &general)?;
        still_meant(step)?;
        let address = post.server.address.to_string();
        let setting = ServerSetting { server: address.clone(), auth_file: post.auth_file.clone(), life, what: What::Automove };
        let Some(present) = settings.get("slab_automove").map(str::to_owned) else {
            return Err(Trouble::Ends(failed(step, "it has no mover")));
        };
        let (footprint, held) = (self.0.footprint.clone(), setting.clone());
        let (old, new) = (present.parse().unwrap_or(1), mode);
        let kept = tokio::task::spawn_blocking(move || {
            let mut footprint = footprint.lock();
            footprint.outlived(&address, life)?;
            footprint.announce(&setting, Some(&present), &mode.to_string())
        });
        let kept = kept.await.map_err(|error| failed(step, &error.to_string())).map_err(Trouble::Ends)?;
        kept.map_err(|error| Trouble::Ends(failed(step, &error.to_string())))?;
        let said = connection.order(Command::Set(Lever::Automove(new))).await?;
        if said.reply != Reply::Ok {
            return Err(Trouble::Ends(failed(step, &said.line)));
        }
        // Whoever put things back meanwhile found the old value still there.
        let footprint = self.0.footprint.clone();
        let kept = tokio::task::spawn_blocking(move || footprint.lock().holds(&held)).await.unwrap_or(false);
        if old != new && !kept {
            connection.order(Command::Set(Lever::Automove(old))).await?;
            return Err(Trouble::Ends(failed(step, "it was to be put back meanwhile")));
        }
        Ok(())
    }
}

/// Whoever looks at the server has the streams; nothing changes on it.
async fn watch(post: &Post, step: &Step, on: bool) -> Result<(), End> {
    let guard =
        step.guards.iter().find_map(|guard| if let Guard::SameLife { life, .. } = guard { Some((guard, *life)) } else { None });
    let (guard, life) = guard.ok_or_else(|| failed(step, "it names no life of the server"))?;
    match timeout(post.server.patience * 2, post.poke.watch(on, life)).await {
        Ok(Some(true)) => Ok(()),
        Ok(Some(false)) => Err(End::Skipped(guard.clone())),
        Ok(None) | Err(_) => Err(failed(step, "it cannot be looked at")),
    }
}

enum Trouble {
    Ends(End),
    Talk(TalkError),
}

impl From<TalkError> for Trouble {
    fn from(error: TalkError) -> Self {
        Self::Talk(error)
    }
}

/// A script goes by counters alone.
fn manner(config: &Config, rule: &CacheRule) -> Manner {
    let (knobs, reads) = (&config.caches, rule.policy() == PolicyId::SlabMarginal);
    Manner {
        period: Duration::from_millis(knobs.period_ms),
        retry_most: Duration::from_millis(knobs.retry_most_ms),
        evictions: knobs.watch_evictions && reads,
        fetchers_on: Duration::from_millis(if reads { knobs.fetchers_on_ms } else { 0 }),
        fetchers_every: Duration::from_secs(knobs.fetchers_every_s),
        keys_per_s: knobs.sampled_keys_per_s,
        keep_keys: knobs.keep_keys,
    }
}

fn server(rule: &CacheRule, patience: Duration) -> Result<Server, String> {
    let address = rule.server.parse::<Address>().map_err(|error| error.to_string())?;
    let auth = match rule.auth_file.as_deref() {
        Some(file) => Some(levers::auth(Path::new(file)).map_err(|error| format!("its password, {file}: {error}"))?),
        None => None,
    };
    Ok(Server { address, auth, patience })
}

/// OK means that the server will try; that the page went, its counters say.
async fn move_page(connection: &mut Connection, step: &Step, from: Place, to: Place) -> Result<(), Trouble> {
    let [general, slabs] = connection.tables([Table::General, Table::Slabs]).await?;
    same_life(step, &general)?;
    still_meant(step)?;
    let (moved, pages) = (counter(&general, "slabs_moved"), pages_of(&general, &slabs, from));
    let said = connection.order(Command::Reassign { from: Some(from), to }).await?;
    if said.reply != Reply::Ok {
        return Err(Trouble::Ends(failed(step, &said.line)));
    }
    let (over, mut pause) = (Instant::now() + MOVE_MOST, POLL_FIRST);
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(POLL_MOST);
        let [general] = connection.tables([Table::General]).await?;
        same_life(step, &general)?;
        if counter(&general, "slabs_moved") > moved && counter(&general, "slab_reassign_running") == 0 {
            let [slabs] = connection.tables([Table::Slabs]).await?;
            let went = pages_of(&general, &slabs, from) < pages;
            return if went { Ok(()) } else { Err(Trouble::Ends(End::Partial("another page moved than was asked for".into()))) };
        }
        if Instant::now() > over {
            let why = format!("accepted, and no page came within {} s", MOVE_MOST.as_secs());
            return Err(Trouble::Ends(End::Partial(why)));
        }
    }
}

fn counter(stats: &Stats, name: &str) -> u64 {
    stats.get(name).and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn pages_of(general: &Stats, slabs: &Stats, place: Place) -> u64 {
    match place {
        Place::Class(ClassId(id)) => counter(slabs, &format!("{id}:total_pages")),
        Place::Pool => counter(general, "slab_global_page_pool"),
    }
}

fn same_life(step: &Step, general: &Stats) -> Result<Option<ServerLife>, Trouble> {
    let life = Counters::read(std::iter::empty(), general.iter()).life;
    let meant = step.guards.iter().find(|guard| matches!(guard, Guard::SameLife { life: meant, .. } if *meant != life));
    meant.map_or(Ok(life), |guard| Err(Trouble::Ends(End::Skipped(guard.clone()))))
}

/// It may have waited long for its connection.
fn still_meant(step: &Step) -> Result<(), Trouble> {
    if boottime() > step.expires { Err(Trouble::Ends(End::Expired)) } else { Ok(()) }
}

fn failed(step: &Step, message: &str) -> End {
    let on = step.action.subject().to_string();
    End::Failed(Fault { call: step.action.verb().to_owned(), on, errno: 0, message: message.to_owned() })
}

fn broken(step: &Step, error: &TalkError) -> End {
    failed(step, &error.to_string())
}
