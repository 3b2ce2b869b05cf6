/** What the page says in Chinese. `{name}` is filled in. */

export default {
  "loading": "正在载入", "back": "返回", "save": "保存", "more": "更多", "yes": "是", "no": "否", "delete": "删除", "export": "导出", "stop": "停止", "skip": "跳到内容",
  "navigation": "页面", "logout": "退出登录",
  "view.live": "现场", "view.conversations": "对话", "view.memories": "记忆", "view.training": "训练", "view.system": "系统",
  "language.other": "Switch to English", "theme.dark": "换成深色", "theme.light": "换成浅色",
  "connection.open": "已连接", "connection.connecting": "正在连接", "connection.closed": "已断开",

  "login.title": "{bot}的控制台", "login.token": "令牌", "login.enter": "进入", "login.help": "设置里 server.tokens 的一个，或环境变量 QQMEM_TOKEN。", "login.lost": "登录已失效，请重新登录。之后会回到刚才的页面。",

  "problem.network": "连不上服务，正在重试。", "problem.unauthorized": "没有这个令牌，请用设置里的令牌。", "problem.rate_limited": "请求太频繁，请稍等。", "problem.broken": "这一页画不出来，是程序的错。换一页，或重新载入。", "problem.broken.again": "重新载入", "problem.forbidden": "当前令牌没有这个权限。",

  "live.feed": "正在发生", "live.empty": "还没有人说话", "live.empty.hint": "在下面说一句试试；QQ 里的对话也会出现在这里。", "live.newest": "回到最新", "live.conversations": "对话", "live.all": "全部", "live.writing": "正在写",
  "vitals": "引擎", "vitals.running": "正在写", "vitals.waiting": "排队", "vitals.speed": "速度", "vitals.first": "首字", "vitals.total": "全程", "vitals.model": "模型", "vitals.training": "训练中", "vitals.release": "版本 {release}",
  "say.as": "身份", "say.text": "以测试用户说点什么", "say.send": "发送", "say.name": "测试用户",
  "phase.reading": "正在读", "phase.think": "正在想", "phase.recall": "正在回忆", "phase.reply": "正在写",
  "thinking": "思考", "message.withdrawn": "（已撤回）",

  "recall": "回忆", "recall.cue": "线索：它刚刚想到的", "recall.chosen": "选中：", "recall.more": "另有 {count} 条", "recall.fewer": "收起", "recall.gone": "这条记忆已被遗忘", "recall.floor": "门槛", "recall.below": "低于门槛", "recall.fits": "高于门槛，可以想起", "recall.unfit": "低于门槛，不会想起",
  "recall.spliced": "原文读入", "recall.decoded": "自己写出", "recall.none": "没有想起", "recall.reading": "正在读入",
  "recall.spliced.why": "存着的原文被直接读入", "recall.decoded.why": "模型凭一个向量逐字写出了原文，并已核对", "recall.none.why": "没有高于门槛的记忆", "recall.reading.why": "记忆正在进入模型",
  "lane.state": "状态", "lane.text": "语义", "lane.lexical": "字词", "lane.said": "{lane}：第 {rank}，强度 {strength}，原分 {score}",

  "outcome.replied": "已回复", "outcome.no_reply": "保持沉默", "outcome.superseded": "被新消息打断", "outcome.cancelled": "已停止", "outcome.failed": "失败", "outcome.interrupted": "服务中断", "outcome.running": "正在写", "outcome.unknown": "断线期间结束",
  "turn.first": "首字 {time}", "turn.total": "全程 {time}", "turn.tokens": "{count} 词元", "turn.cached": "缓存 {share}", "turn.cached.why": "提示词 {prompt} 词元，其中 {cached} 来自缓存",
  "action.poke": "戳了戳 {user}", "action.like": "回应 {emoji}", "trace": "经过", "trace.recalls": "经过 · {count} 次回忆",
  "conversation.private": "私聊", "conversation.group": "群",
  "delivery.failed": "发送失败", "delivery.unknown": "不知是否送到",

  "note.lagged": "页面没跟上，略过了 {count} 个片段", "note.memory.added": "记住了 {count} 件事　{whose}", "note.memory.changed": "改了 {count} 条记忆　{whose}", "note.memory.forgotten": "忘了 {count} 条记忆　{whose}",
  "note.release": "换上了版本 {release}", "note.release.none": "换回了未训练的模型", "note.bridge.on": "桥 {bridge} 已连接", "note.bridge.off": "桥 {bridge} 已断开", "note.undelivered": "桥 {bridge}：{status} {reason}",
  "note.run.running": "第 {id} 次训练开始", "note.run.done": "第 {id} 次训练完成", "note.run.refused": "第 {id} 次训练没有通过检验", "note.run.failed": "第 {id} 次训练失败", "note.run.interrupted": "第 {id} 次训练中断", "note.run.cancelled": "第 {id} 次训练已取消",

  "conversations.search": "搜索说过的话", "conversations.choose": "选一个对话", "conversations.one": "对话内容", "conversations.none": "还没有对话", "conversations.empty": "这里还没有消息", "conversations.messages": "{count} 条", "conversations.hits": "找到的消息", "conversations.newest": "到最新",
  "conversations.delete.title": "删除这个对话？", "conversations.delete.what": "其中所有消息和经过都会删掉，正在写的回复会停下。从中得到的记忆不受影响。",
  "search.none": "没有找到",

  "memories.search": "按意思或字词搜索", "memories.show": "显示为", "memories.list": "列表", "memories.map": "地图", "memories.one": "一条记忆", "memories.choose": "选一条记忆", "memories.none": "没有这样的记忆", "memories.none.hint": "有人说话之后，过一会儿就会有。", "memories.number": "记忆 {id}", "memories.text": "这条记忆的文字",
  "memories.hits": "想起 {count} 次", "memories.pinned": "已钉住", "memories.pin": "钉住", "memories.unpin": "取消钉住", "memories.edit": "改写", "memories.forget": "遗忘", "memories.forget.title": "忘掉这条记忆？", "memories.forget.what": "文字、向量和历史都会清除，同样的话不会再被记住。无法恢复。",
  "memories.decodable": "能背出", "memories.decodable.by": "版本 {release} 能背出", "memories.subject": "关于", "memories.speaker": "谁说的", "memories.created": "记下", "memories.valid": "有效", "memories.used": "想起", "memories.newer": "被取代", "memories.sources": "来自", "memories.sources.none": "没有留下来源的消息。", "memories.history": "历史",
  "filter.scope": "归属", "filter.subject": "关于", "filter.state": "状态", "filter.kind": "种类",
  "scope.user": "{who} 的私聊", "scope.group": "群 {rest}", "scope.member": "{who} 在群 {where}", "scope.global": "所有人",
  "state.searchable": "可想起", "state.superseded": "已被取代", "state.expired": "已过期", "state.deleted": "已遗忘", "kind.fact": "事实", "kind.message": "原话",
  "event.ADD": "记下", "event.UPDATE": "改写", "event.SUPERSEDE": "被取代", "event.EXPIRE": "过期", "event.DELETE": "遗忘", "event.PIN": "钉住", "event.UNPIN": "取消钉住",
  "map.by": "颜色", "map.by.subject": "按人", "map.by.state": "按状态", "map.by.kind": "按种类", "map.what": "{lane}：{count} / {total} 条，平面保留 {share} 的差异", "map.lane.state": "模型自己的向量", "map.lane.text": "语义向量", "map.none": "还没有可画的记忆", "map.none.hint": "有了几条记忆，它们就会按相似程度排开。", "map.others": "其他", "map.nobody": "不关于谁", "map.zoom": "缩放", "map.in": "放大", "map.out": "缩小", "map.reset": "看全部",
  "map.label": "记忆地图。方向键在点之间移动，回车打开，加减号缩放，0 看全部。",

  "training.start": "开始训练", "training.cancel": "取消训练", "training.cancel.title": "取消第 {id} 次训练？", "training.cancel.what": "这次训练的结果不会上线，现在的模型继续服务。", "training.next": "下次", "training.unscheduled": "没有定时训练", "training.none": "还没有训练过", "training.none.hint": "有了记忆就可以开始；训练时照常聊天。",
  "training.run": "第 {id} 次", "training.runs": "历次训练", "training.stages": "步骤", "training.step": "{step} / {steps} 步", "training.left": "还需 {time}", "training.progress": "进度", "training.loss.said": "{stage}的损失：从 {from} 到 {to}，{steps} 步",
  "stage.export": "取出记忆", "stage.stage1": "学会寻找", "stage.stage2": "学会读出", "stage.gate": "检验", "stage.publish": "发布", "stage.swap": "换上", "stage.mark": "标记",
  "run.running": "进行中", "run.done": "完成", "run.refused": "未通过", "run.failed": "失败", "run.interrupted": "中断", "run.cancelled": "已取消", "actor.message": "原话", "actor.extract": "从对话中提取", "actor.evict": "位置不够", "actor.schedule": "定时", "actor.hand": "手动",
  "loss.total": "总计", "loss.query": "找到记忆", "loss.ask": "何时回忆", "loss.open": "怎样开头", "loss.text": "读出记忆", "loss.reply": "据此回复", "loss.chat": "普通对话", "loss.keep": "偏离原模型", "loss.quiet": "不该回忆时",
  "gate": "检验", "gate.none": "这次训练没有检验结果。", "gate.passed": "通过", "gate.refused": "未通过", "gate.report": "完整报告", "gate.measure": "指标", "gate.before": "训练前", "gate.after": "训练后", "gate.bound": "要求", "gate.values": "数值", "gate.bound.said": "要求 {bound}", "gate.trigger": "何时回忆", "gate.decodable": "能背出的记忆", "gate.of": "{all} 条中 {some} 条", "gate.ranks": "{count} 个没学过的提问：该想起的记忆排第几", "gate.ranks.said": "排第一的，训练前 {before}%，训练后 {after}%",
  "measure.recall_at_1": "一次找对", "measure.recall_at_5": "前五个里有", "measure.exact": "逐字背出", "measure.trigger_recall": "该想时会想", "measure.trigger_precision": "想得有必要", "measure.trigger_false": "不该想也想", "measure.perplexity_rise": "普通对话变差", "measure.perplexity_rise_beside": "变差，旁有无关记忆",
  "trigger.model": "模型自己决定", "trigger.both": "模型决定，或检索分数够高", "trigger.score": "检索分数决定", "trigger.off": "从不",
  "releases": "版本", "releases.current": "正在用", "releases.use": "换上", "releases.use.title": "换上{release}？", "releases.use.what": "两步之间就会换好，正在写的回复不受影响。", "releases.memories": "{count} 条记忆，能背出 {decodable}", "release.base": "未训练的模型", "release.base.what": "原来的样子", "release.starter": "自带的起点",

  "health.ok": "正常", "health.loading": "正在载入模型", "health.failed": "故障", "health.stopping": "正在停止",
  "system.health": "状态", "system.reason": "原因", "system.version": "版本", "system.up": "已运行", "system.memory": "内存", "system.sockets": "连接数", "system.model": "模型", "system.name": "名字", "system.release": "训练版本", "system.trigger": "何时回忆", "system.device": "设备", "system.threads": "线程", "system.parameters": "参数", "system.context": "上下文", "system.thinks": "会思考",
  "system.latency": "快慢", "system.latency.of": "最近 {count} 次 · 中位 · 95%", "system.first": "首字", "system.total": "全程", "system.engine": "引擎", "system.steps": "步数", "system.prompt": "读入词元", "system.written": "写出词元", "system.hits": "缓存命中", "system.kv": "KV 缓存", "system.storage": "存储", "system.messages": "消息", "system.turns": "回合", "system.database": "数据库",
  "system.bridges": "QQ 桥", "system.bridges.none": "还没有桥连过来。", "system.undelivered": "{count} 条未送达", "system.bridge": "桥", "system.online": "账号在线", "system.queued": "排队 {count}",
  "settings": "设置", "settings.search": "搜索设置", "settings.own": "只看改过的", "settings.changed": "改过", "settings.default": "默认 {value}", "settings.hint": "设置在启动时读取一次，令牌等不在其中。要改请编辑 qqmem.yaml 或环境变量，然后重启。",
};
