/** What the page says in English. `{name}` is filled in; a function where numbers change the words. */

const many = (one, more) => ({ count }) => (count === 1 ? one : more);

export default {
  "loading": "Loading", "back": "Back", "save": "Save", "more": "More", "yes": "yes", "no": "no", "delete": "Delete", "export": "Export", "stop": "Stop", "skip": "Skip to content",
  "navigation": "Pages", "logout": "Log out",
  "view.live": "Live", "view.conversations": "Chats", "view.memories": "Memories", "view.training": "Training", "view.system": "System",
  "language.other": "换成中文", "theme.dark": "Use dark colours", "theme.light": "Use light colours",
  "connection.open": "Connected", "connection.connecting": "Connecting", "connection.closed": "Disconnected",

  "login.title": "{bot} · dashboard", "login.token": "Token", "login.enter": "Log in", "login.help": "One of server.tokens in the settings, or QQMEM_TOKEN.", "login.lost": "You were logged out. Log in again, and you are back where you were.",

  "problem.network": "The service cannot be reached. Trying again.", "problem.unauthorized": "This token is not known; use one of those in the settings.", "problem.rate_limited": "Too many requests; wait a moment.", "problem.broken": "This page cannot be drawn, by a fault of ours. Go to another, or reload.", "problem.broken.again": "Reload", "problem.forbidden": "Your token does not allow this.",

  "live.feed": "What goes on", "live.empty": "Nobody has said anything yet", "live.empty.hint": "Say something below; what is said in QQ appears here, too.", "live.newest": "Newest", "live.conversations": "Chats", "live.all": "All", "live.writing": "Writing",
  "vitals": "Engine", "vitals.running": "Writing", "vitals.waiting": "In line", "vitals.speed": "Speed", "vitals.first": "First token", "vitals.total": "Whole reply", "vitals.model": "Model", "vitals.training": "Training", "vitals.release": "release {release}",
  "say.as": "As", "say.text": "Say something", "say.send": "Send", "say.name": "Test user",
  "phase.reading": "reading", "phase.think": "thinking", "phase.recall": "recalling", "phase.reply": "writing",
  "thinking": "Thought", "message.withdrawn": "(withdrawn)",

  "recall": "Recall", "recall.cue": "Cue: what it had just thought", "recall.chosen": "Chosen:", "recall.more": many("{count} more", "{count} more"), "recall.fewer": "Fewer", "recall.gone": "This memory is forgotten", "recall.floor": "floor", "recall.below": "below the floor", "recall.fits": "Above the floor: it may be recalled", "recall.unfit": "Below the floor: it is not recalled",
  "recall.spliced": "read as stored", "recall.decoded": "written by heart", "recall.none": "nothing fitted", "recall.reading": "coming in",
  "recall.spliced.why": "Its stored text was read", "recall.decoded.why": "The model wrote the stored text from one vector; it was checked", "recall.none.why": "No memory was above the floor", "recall.reading.why": "The memory is entering the model",
  "lane.state": "State", "lane.text": "Meaning", "lane.lexical": "Words", "lane.said": "{lane}: rank {rank}, strength {strength}, score {score}",

  "outcome.replied": "Replied", "outcome.no_reply": "Stayed silent", "outcome.superseded": "Interrupted by a newer message", "outcome.cancelled": "Stopped", "outcome.failed": "Failed", "outcome.interrupted": "The service ended", "outcome.running": "Writing", "outcome.unknown": "Ended while disconnected",
  "turn.first": "first {time}", "turn.total": "total {time}", "turn.tokens": many("{count} token", "{count} tokens"), "turn.cached": "cached {share}", "turn.cached.why": "{cached} of {prompt} tokens of the prompt came from the cache",
  "action.poke": "poked {user}", "action.like": "reacted {emoji}", "trace": "Trace", "trace.recalls": many("Trace · 1 recall", "Trace · {count} recalls"),
  "conversation.private": "private", "conversation.group": "group",
  "delivery.failed": "not sent", "delivery.unknown": "may not have arrived",

  "note.lagged": many("The page fell behind; {count} frame was left out", "The page fell behind; {count} frames were left out"), "note.memory.added": ({ count, whose }) => `Remembered ${count === 1 ? "1 thing" : `${count} things`}  ${whose}`, "note.memory.changed": ({ count, whose }) => `${count === 1 ? "1 memory" : `${count} memories`} changed  ${whose}`, "note.memory.forgotten": ({ count, whose }) => `${count === 1 ? "1 memory" : `${count} memories`} forgotten  ${whose}`,
  "note.release": "Release {release} serves now", "note.release.none": "The untrained model serves now", "note.bridge.on": "Bridge {bridge} connected", "note.bridge.off": "Bridge {bridge} is gone", "note.undelivered": "Bridge {bridge}: {status} {reason}",
  "note.run.running": "Training run {id} has begun", "note.run.done": "Training run {id} is done", "note.run.refused": "Training run {id} was refused by the gate", "note.run.failed": "Training run {id} has failed", "note.run.interrupted": "Training run {id} was interrupted", "note.run.cancelled": "Training run {id} was cancelled",

  "conversations.search": "Search what was said", "conversations.choose": "Choose a conversation", "conversations.one": "Conversation", "conversations.none": "No conversations yet", "conversations.empty": "Nothing was said here yet", "conversations.messages": many("{count} message", "{count} messages"), "conversations.hits": "Messages found", "conversations.newest": "To the newest",
  "conversations.delete.title": "Delete this conversation?", "conversations.delete.what": "All its messages and traces go, and a reply being written stops. Memories drawn from it stay.",
  "search.none": "Nothing found",

  "memories.search": "Search by meaning or words", "memories.show": "Show as", "memories.list": "List", "memories.map": "Map", "memories.one": "A memory", "memories.choose": "Choose a memory", "memories.none": "No such memories", "memories.none.hint": "They come a while after people have talked.", "memories.number": "Memory {id}", "memories.text": "What this memory says",
  "memories.hits": many("recalled once", "recalled {count} times"), "memories.pinned": "Pinned", "memories.pin": "Pin", "memories.unpin": "Unpin", "memories.edit": "Edit", "memories.forget": "Forget", "memories.forget.title": "Forget this memory?", "memories.forget.what": "Text, vectors and history go, and the same words are not remembered again. There is no way back.",
  "memories.decodable": "by heart", "memories.decodable.by": "by heart in release {release}", "memories.subject": "About", "memories.speaker": "Said by", "memories.created": "Remembered", "memories.valid": "Valid", "memories.used": "Recalled", "memories.newer": "Superseded by", "memories.sources": "Drawn from", "memories.sources.none": "No messages are left that it came from.", "memories.history": "History",
  "filter.scope": "Scope", "filter.subject": "About", "filter.state": "State", "filter.kind": "Kind",
  "scope.user": "{who} in private", "scope.group": "group {rest}", "scope.member": "{who} in group {where}", "scope.global": "everybody",
  "state.searchable": "searchable", "state.superseded": "superseded", "state.expired": "expired", "state.deleted": "forgotten", "kind.fact": "fact", "kind.message": "own words",
  "event.ADD": "Remembered", "event.UPDATE": "Edited", "event.SUPERSEDE": "Superseded", "event.EXPIRE": "Expired", "event.DELETE": "Forgotten", "event.PIN": "Pinned", "event.UNPIN": "Unpinned",
  "map.by": "Colours", "map.by.subject": "Person", "map.by.state": "State", "map.by.kind": "Kind", "map.what": "{lane}: {count} of {total}; the plane keeps {share} of the variance", "map.lane.state": "The model's own vectors", "map.lane.text": "Vectors of meaning", "map.none": "Nothing to draw yet", "map.none.hint": "With a few memories, those that are alike come to lie together.", "map.others": "others", "map.nobody": "nobody in particular", "map.zoom": "Zoom", "map.in": "Zoom in", "map.out": "Zoom out", "map.reset": "Show all",
  "map.label": "Map of memories. Arrow keys go from point to point, Enter opens, plus and minus zoom, 0 shows all.",

  "training.start": "Start training", "training.cancel": "Cancel", "training.cancel.title": "Cancel training run {id}?", "training.cancel.what": "Nothing of it will serve; the present model goes on.", "training.next": "Next", "training.unscheduled": "Not scheduled", "training.none": "No training yet", "training.none.hint": "It can begin once something is remembered; the bot goes on chatting meanwhile.",
  "training.run": "Run {id}", "training.runs": "Runs", "training.stages": "Stages", "training.step": "step {step} of {steps}", "training.left": "{time} left", "training.progress": "Progress", "training.loss.said": "Loss of {stage}: from {from} to {to} in {steps} steps",
  "stage.export": "Export", "stage.stage1": "Learn to find", "stage.stage2": "Learn to read", "stage.gate": "Gate", "stage.publish": "Publish", "stage.swap": "Swap", "stage.mark": "Mark",
  "run.running": "running", "run.done": "done", "run.refused": "refused", "run.failed": "failed", "run.interrupted": "interrupted", "run.cancelled": "cancelled", "actor.message": "own words", "actor.extract": "drawn from a chat", "actor.evict": "no room", "actor.schedule": "by schedule", "actor.hand": "by hand",
  "loss.total": "total", "loss.query": "find it", "loss.ask": "when to recall", "loss.open": "how it opens", "loss.text": "read it", "loss.reply": "reply from it", "loss.chat": "ordinary turns", "loss.keep": "drift from the base", "loss.quiet": "when not to recall",
  "gate": "Gate", "gate.none": "The gate has not measured this run.", "gate.passed": "passed", "gate.refused": "refused", "gate.report": "Full report", "gate.measure": "Measure", "gate.before": "before", "gate.after": "after", "gate.bound": "needed", "gate.values": "Values", "gate.bound.said": "needed {bound}", "gate.trigger": "It recalls", "gate.decodable": "Known by heart", "gate.of": "{some} of {all}", "gate.ranks": ({ count }) => `Rank of the wanted memory, ${count} questions not trained on`, "gate.ranks.said": "Found first: {before}% before, {after}% after",
  "measure.recall_at_1": "Found first", "measure.recall_at_5": "Among the first five", "measure.exact": "Written exactly", "measure.trigger_recall": "Recalls when needed", "measure.trigger_precision": "Recalls are needed", "measure.trigger_false": "Recalls when not needed", "measure.perplexity_rise": "Ordinary turns worse by", "measure.perplexity_rise_beside": "… beside a foreign memory",
  "trigger.model": "when the model asks", "trigger.both": "when the model asks, or scores are high", "trigger.score": "when scores are high", "trigger.off": "never",
  "releases": "Releases", "releases.current": "in force", "releases.use": "Use", "releases.use.title": "Use {release}?", "releases.use.what": "It is swapped in between two steps; replies being written are not disturbed.", "releases.memories": ({ count, decodable }) => `${count === 1 ? "1 memory" : `${count} memories`}, ${decodable} by heart`, "release.base": "untrained model", "release.base.what": "as it came", "release.starter": "starter",

  "health.ok": "Well", "health.loading": "Loading the model", "health.failed": "Failed", "health.stopping": "Stopping",
  "system.health": "Service", "system.reason": "Reason", "system.version": "Version", "system.up": "Up", "system.memory": "Memory", "system.sockets": "Sockets", "system.model": "Model", "system.name": "Name", "system.release": "Release", "system.trigger": "It recalls", "system.device": "Device", "system.threads": "Threads", "system.parameters": "Parameters", "system.context": "Context", "system.thinks": "Thinks",
  "system.latency": "Pace", "system.latency.of": many("last turn · median · 95%", "last {count} turns · median · 95%"), "system.first": "First token", "system.total": "Whole reply", "system.engine": "Engine", "system.steps": "Steps", "system.prompt": "Tokens read", "system.written": "Tokens written", "system.hits": "Cache hits", "system.kv": "KV cache", "system.storage": "Storage", "system.messages": "Messages", "system.turns": "Turns", "system.database": "Database",
  "system.bridges": "QQ bridge", "system.bridges.none": "No bridge has come yet.", "system.undelivered": many("{count} not delivered", "{count} not delivered"), "system.bridge": "Bridge", "system.online": "Account online", "system.queued": "{count} in line",
  "settings": "Settings", "settings.search": "Search settings", "settings.own": "Only changed ones", "settings.changed": "changed", "settings.default": "default {value}", "settings.hint": "Settings are read once, at the start; secrets are not shown. To change them, edit qqmem.yaml or the environment, and restart.",
};
