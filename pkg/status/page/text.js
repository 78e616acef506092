// The texts of the page in English and Chinese.

const texts = {
  title: ["imagetasks", "imagetasks"],
  skip: ["Skip to the content", "跳到正文"],
  nav: ["Pages", "页面"],
  overview: ["Overview", "总览"],
  operations: ["Operations", "操作记录"],
  search: ["Search", "搜索"],
  searchLabel: ["Task, user or error code", "任务、用户或错误代码"],
  language: ["中文", "English"],
  languageLabel: ["中文：切换到中文", "English: switch to English"],
  theme: ["Theme", "主题"],
  theme_auto: ["system", "跟随系统"],
  theme_light: ["light", "浅色"],
  theme_dark: ["dark", "深色"],
  loading: ["Loading…", "正在加载…"],
  retry: ["Try again", "重试"],

  asOf: ["as of", "数据时间"],
  live: ["Live", "实时"],
  connecting: ["Connecting…", "正在连接…"],
  lost: ["Connection lost. This is the state as of {time}, {age} ago. Reconnecting…", "连接已断开。以下是 {time} 的状态（{age}前）。正在重新连接…"],
  lostNever: ["No connection yet: {reason}. Trying again…", "尚未建立连接：{reason}。正在重试…"],
  databaseDown: ["The database does not respond since {time}: {reason}. The numbers below are those of {asOf}.", "数据库自 {time} 起没有响应：{reason}。以下数据截至 {asOf}。"],
  databaseNever: ["The database has not responded since {time}: {reason}. Nothing is known of the queue yet.", "数据库自 {time} 起没有响应：{reason}。尚未读取到任何队列数据。"],
  mustSignIn: ["This page shows nothing without the token, because it is not opened on the machine itself.", "当前不是在本机上访问，需要先用令牌登录才能查看。"],
  zone: ["Times are those of the server: {zone}.", "所有时间均为服务器时间：{zone}。"],
  served: ["Served by {program} {version} on {host}.", "由 {host} 上的 {program} {version} 提供。"],

  well: ["All is well", "一切正常"],
  wellDetail: ["No problems. {completed} completed and {failed} failed in the last {window}.", "没有问题。最近 {window} 内完成 {completed} 个任务，失败 {failed} 个。"],
  problem: ["{n} problem", "{n} 个问题"],
  problems: ["{n} problems", "{n} 个问题"],
  severity_error: ["Error", "错误"],
  severity_warning: ["Warning", "警告"],
  what: ["What", "问题"],
  whatToDo: ["What to do", "处理方法"],
  run: ["Run", "运行"],
  copy: ["Copy", "复制"],
  copied: ["Copied", "已复制"],
  since: ["since {time}", "自 {time} 起"],
  sinceColumn: ["Since", "开始时间"],
  comma: [", ", "，"],
  paused: ["Paused", "已暂停"],
  pausedBy: ["by {by}", "操作者：{by}"],
  scope_queue: ["the whole queue", "整个队列"],
  scope_endpoint: ["endpoint", "端点"],
  scope_model: ["model", "模型"],

  tasks: ["Tasks", "任务"],
  due: ["Due", "待处理"],
  dueNote: ["oldest: {age}", "最早的已等待 {age}"],
  dueNone: ["none waiting", "没有等待的任务"],
  later: ["Later", "稍后处理"],
  laterNote: ["scheduled or retrying", "定时或等待重试"],
  processing: ["Processing", "处理中"],
  processingNote: ["of {n} at a time", "并发上限 {n}"],
  stuck: ["Stuck", "卡住"],
  stuckNote: ["no progress for long", "长时间没有进展"],
  completed: ["Completed", "已完成"],
  failed: ["Failed", "已失败"],
  cancelled: ["Cancelled", "已取消"],
  pending: ["Pending", "待处理"],
  lastWindow: ["last {window}", "最近 {window}"],
  hours: ["{n} h", "{n} 小时"],

  charts: ["Last 24 hours", "最近 24 小时"],
  chart_flow: ["Tasks every {step}", "每 {step}的任务数"],
  chart_refunds: ["Refunded credits every {step}", "每 {step}退还的积分"],
  chart_duration: ["Duration in seconds", "处理时长（秒）"],
  chart_depth: ["Tasks that wait or are processed", "排队与处理中的任务"],
  chart_oldest: ["Age of the oldest due task in seconds", "最早待处理任务的等待时间（秒）"],
  arrived: ["Arrived", "新增"],
  refunded: ["Refunded", "已退款"],
  p50: ["p50", "p50"],
  p95: ["p95", "p95"],
  depth: ["Due", "待处理"],
  oldest: ["Oldest", "最早"],
  time: ["Time", "时间"],
  sum: ["{name}: {n} in all", "{name}：共 {n}"],
  range: ["{name}: now {now}, at most {max}", "{name}：当前 {now}，最大 {max}"],
  noValues: ["{name}: no values yet", "{name}：暂无数据"],
  asTable: ["Show as a table", "以表格显示"],
  noSeries: ["No figures yet. One row a minute is recorded while a processor or a monitor runs.", "暂无数据。处理器或监控程序运行期间每分钟记录一次。"],

  processors: ["Processors", "处理器"],
  host: ["Host", "主机"],
  state: ["State", "状态"],
  pid: ["PID", "PID"],
  version: ["Version", "版本"],
  started: ["Started", "启动时间"],
  heartbeat: ["Last heartbeat", "上次心跳"],
  inFlight: ["In flight", "处理中"],
  ofLimit: ["{n} of {limit}", "{n}/{limit}"],
  alive: ["running", "运行中"],
  silent: ["silent", "没有心跳"],
  leases: ["can't renew its leases", "无法续租"],
  noProcessors: ["No processor has run on this database.", "此数据库上还没有运行过处理器。"],

  routes: ["Endpoints, models, proxies", "端点、模型、代理"],
  endpoints: ["Endpoints", "端点"],
  endpoint: ["Endpoint", "端点"],
  models: ["Models", "模型"],
  model: ["Model", "模型"],
  proxies: ["Proxies", "代理"],
  proxy: ["Proxy", "代理"],
  noProxy: ["no proxy", "不使用代理"],
  pictureStores: ["Picture stores", "图片存储"],
  limits: ["Limits", "限制"],
  atATime: ["{n} at a time", "并发 {n}"],
  perMinute: ["{n} a minute", "每分钟 {n} 个"],
  rateLimited: ["rate limited until {time}", "限流至 {time}"],
  servedColumn: ["Responses", "响应数"],
  state_closed: ["works", "正常"],
  state_open: ["out of order", "故障"],
  state_half_open: ["being tried", "正在尝试恢复"],
  state_paused: ["paused", "已暂停"],
  reason: ["Reason", "原因"],
  nextTrial: ["next try {time}", "下次尝试 {time}"],
  onHosts: ["on {hosts}", "主机：{hosts}"],
  noEndpoints: ["No processor has reported its endpoints.", "还没有处理器上报端点。"],
  noModels: ["No endpoint lists its models, and none is paused or out of order.", "没有端点列出模型，也没有暂停或故障的模型。"],
  noProxies: ["No proxy is set.", "没有设置代理。"],
  noStores: ["No processor has reported its picture store.", "还没有处理器上报图片存储。"],
  action: ["Action", "操作"],

  checks: ["Last health checks", "最近的健康检查"],
  check: ["Check", "检查项"],
  check_database: ["database", "数据库"],
  check_queue: ["queue", "队列"],
  check_api: ["API", "API"],
  check_processor: ["processor", "处理器"],
  result: ["Result", "结果"],
  ok: ["OK", "正常"],
  notOK: ["failed", "失败"],
  milliseconds: ["{n} ms", "{n} 毫秒"],
  took: ["Took", "耗时"],
  noChecks: ["No health check has run yet.", "还没有进行过健康检查。"],

  failures: ["Failures of the last 24 hours, by cause", "最近 24 小时的失败（按原因）"],
  failureCount: ["{n} failed", "失败 {n} 个"],
  examples: ["Examples", "示例"],
  noFailures: ["No task failed in the last 24 hours.", "最近 24 小时没有失败的任务。"],

  recent: ["Latest tasks", "最近结束的任务"],
  noRecent: ["No task has closed yet.", "还没有任务结束。"],
  picturesOff: ["Pictures are not shown: they are private to users. STATUS_PICTURES=on shows them to whoever is signed in.", "不显示图片：图片属于用户隐私。设置 STATUS_PICTURES=on 后，登录者可以查看。"],
  picturesSignIn: ["Sign in to see pictures.", "登录后可查看图片。"],
  pictureOf: ["Picture of task {id}", "任务 {id} 的图片"],
  task: ["Task", "任务"],
  user: ["User", "用户"],
  duration: ["Duration", "时长"],
  closed: ["Closed", "结束时间"],
  created: ["Enqueued", "入队时间"],
  runNumber: ["Run", "执行次数"],
  error: ["Error", "错误"],
  cost: ["Credits", "积分"],

  days: ["Income and cost per day", "每日收入与成本"],
  day: ["Day", "日期"],
  charged: ["Charged", "扣除积分"],
  refundedCredits: ["Refunded", "退还积分"],
  net: ["Net", "净收入"],
  apiCost: ["API cost", "API 成本"],
  noDays: ["No days yet.", "暂无数据。"],

  bridge: ["Bridge to the application's tables", "与应用表的桥接"],
  bridge_active: ["active", "已启用"],
  bridge_inactive: ["not active", "未启用"],
  inbox: ["Changes to read", "待读取的变更"],
  outbox: ["Ends of tasks to write", "待写入的任务结果"],
  failing: ["{n} failing", "{n} 个失败"],
  bridgeFailures: ["Rows that fail", "失败的数据行"],
  lostUpdates: ["Balances that may have been overwritten", "可能被覆盖的余额"],
  webhooks: ["Completion events (webhooks)", "完成事件（Webhook）"],
  waiting: ["Waiting", "等待发送"],
  held: ["Held for the bridge", "等待桥接"],
  undelivered: ["Undelivered", "未送达"],

  searchTitle: ["Search for “{q}”", "搜索“{q}”"],
  searchHint: ["Search takes a task's id, the beginning of an id that is a UUID, a user's id, or an error code.", "可搜索任务 ID、UUID 形式的任务 ID 的开头、用户 ID 或错误代码。"],
  nothingFound: ["Nothing found.", "没有找到。"],
  more: ["There are more; only the first {n} are shown.", "结果较多，仅显示前 {n} 条。"],
  found: ["{n} found", "找到 {n} 条"],

  taskTitle: ["Task {id}", "任务 {id}"],
  waitsFor: ["waits for its {what}", "等待：{what}"],
  wait_time: ["time", "执行时间"],
  wait_user: ["user's other tasks", "该用户的其他任务"],
  wait_model: ["model", "模型"],
  priority: ["Priority", "优先级"],
  position: ["Position in the queue", "排队位置"],
  expectedWait: ["Expected wait", "预计等待"],
  runAfter: ["Not before", "最早执行时间"],
  creditsLine: ["cost {cost}; this run: charged {charged}, refunded {refunded}", "价格 {cost}；本次执行：已扣 {charged}，已退 {refunded}"],
  missingCharge: ["It says it was charged, and the ledger has no charge: nothing can be refunded. To settle it run: fix-stuck-tasks audit --resolve {id} --credits N --reason TEXT",
    "任务标记为已扣费，但账本中没有扣费记录，无法退款。如需处理请运行：fix-stuck-tasks audit --resolve {id} --credits N --reason TEXT"],
  options: ["Options", "选项"],
  requests: ["Paid requests", "付费请求"],
  requestsLine: ["{n} in this run, {unknown} of unknown outcome", "本次执行 {n} 个，其中 {unknown} 个结果未知"],
  progress: ["Progress", "进度"],
  leasedBy: ["Processor", "处理器"],
  picture: ["Picture", "图片"],
  files: ["Files", "文件"],
  inputs: ["Input pictures", "输入图片"],
  inputsLine: ["{n}, {stored} of them still stored", "{n} 张，其中 {stored} 张仍保存"],
  setAside: ["Set aside: the database refuses to change it ({reason})", "已搁置：数据库拒绝修改该任务（{reason}）"],
  pendingSince: ["The picture was made at {time} and still has to be fetched.", "图片已于 {time} 生成，尚待下载。"],
  forgotten: ["Prompt and input pictures were deleted (users forget).", "提示词和输入图片已删除（users forget）。"],
  bridgeState: ["Bridge", "桥接"],
  attempts: ["Claims and their outcomes", "处理记录"],
  results: ["What the API made", "API 生成结果"],
  ledger: ["Ledger", "账本"],
  outcome: ["Outcome", "结果"],
  attempt: ["Attempt", "尝试次数"],
  message: ["Message", "消息"],
  requestID: ["Request id", "请求 ID"],
  usage: ["Usage", "用量"],
  amount: ["Amount", "金额"],
  balance: ["Balance", "余额"],
  kind: ["Kind", "类型"],
  none: ["None.", "无。"],
  notFound: ["There is no task {id}.", "没有任务 {id}。"],

  signIn: ["Sign in", "登录"],
  signOut: ["Sign out", "退出登录"],
  token: ["Token (STATUS_TOKEN)", "令牌（STATUS_TOKEN）"],
  signInText: ["Actions need the token that is set as STATUS_TOKEN.", "执行操作需要 STATUS_TOKEN 中设置的令牌。"],
  actionsOff: ["Actions are off. Set STATUS_TOKEN to redrive, cancel, pause and grant from this page.", "操作功能未启用。设置 STATUS_TOKEN 后，可在此页面重新执行、取消、暂停和发放积分。"],
  actions: ["Actions", "操作"],
  cancel: ["Cancel", "取消"],
  close: ["Close", "关闭"],
  working: ["Working…", "正在执行…"],
  done: ["Done", "已完成"],
  refused: ["Not done", "未执行"],
  noOperations: ["No operation yet.", "暂无操作记录。"],
  who: ["Who", "操作者"],
  subject: ["Subject", "对象"],
  detail: ["Detail", "详情"],
  operationsSignIn: ["Sign in to see the operations.", "登录后可查看操作记录。"],

  redrive: ["Redrive", "重新执行"],
  redriveTitle: ["Redrive this task?", "重新执行此任务？"],
  redriveText: ["Task {id} returns to the queue for another run, and its user is charged {cost} credits again.", "任务 {id} 将重新进入队列，并再次向用户扣除 {cost} 积分。"],
  cancelTask: ["Cancel and refund", "取消并退款"],
  cancelTitle: ["Cancel this task?", "取消此任务？"],
  cancelText: ["Task {id} is closed as cancelled, and what its user was charged for this run is refunded. A request that is already being answered may still be billed.", "任务 {id} 将标记为已取消，并退还本次执行已扣除的积分。已发出的请求仍可能产生费用。"],
  fixStuck: ["Fix stuck tasks now", "立即处理卡住的任务"],
  fixStuckTitle: ["Fix stuck tasks now?", "立即处理卡住的任务？"],
  fixStuckText: ["All stuck tasks are closed as failed, and their users are refunded. Tasks that are processed normally are not touched.", "所有卡住的任务将标记为失败，并向用户退款。正常处理中的任务不受影响。"],
  pause: ["Pause", "暂停"],
  pauseQueue: ["Pause the queue", "暂停队列"],
  pauseModel: ["Pause a model", "暂停模型"],
  pauseModelTitle: ["Pause a model?", "暂停模型？"],
  modelLabel: ["Model, as tasks name it", "模型名称（与任务中一致）"],
  pauseTitle: ["Pause {what}?", "暂停{what}？"],
  pauseText_queue: ["No processor on any host claims tasks until it is resumed. Tasks in flight are finished, and new ones wait.", "恢复之前，所有主机上的处理器都不再领取任务。处理中的任务会继续完成，新任务将等待。"],
  pauseText_endpoint: ["No processor on any host sends requests to this endpoint until it is resumed. Its tasks wait, or use another endpoint.", "恢复之前，所有主机上的处理器都不再向此端点发送请求。相关任务将等待或使用其他端点。"],
  pauseText_model: ["No processor on any host claims tasks of this model until it is resumed. They wait.", "恢复之前，所有主机上的处理器都不再领取此模型的任务，这些任务将等待。"],
  reasonLabel: ["Reason (shown to everyone on this page)", "原因（此页面的所有读者可见）"],
  resume: ["Resume", "恢复"],
  resumeQueue: ["Resume the queue", "恢复队列"],
  resumeTitle: ["Resume {what}?", "恢复{what}？"],
  resumeText: ["Tasks that waited for it may be claimed at once, on all hosts.", "等待中的任务可立即被所有主机上的处理器领取。"],
  grant: ["Grant credits", "发放积分"],
  grantTitle: ["Grant credits", "发放积分"],
  grantText: ["The user's balance grows at once, and the ledger keeps the reason. Sending this form twice grants once.", "用户余额立即增加，原因记入账本。重复提交只发放一次。"],
  userLabel: ["User id", "用户 ID"],
  creditsLabel: ["Credits (1 or more)", "积分（至少为 1）"],
  reasonRequired: ["Reason (kept in the ledger)", "原因（记入账本）"],
};

const key = { language: "imagetasks.language", theme: "imagetasks.theme" };

/** stored reads what this browser remembers; storage may be forbidden. */
export function stored(name) {
  try {
    return localStorage.getItem(key[name]);
  } catch {
    return null;
  }
}

export function store(name, content) {
  try {
    localStorage.setItem(key[name], content);
  } catch {
    // Then it is not remembered.
  }
}

let language = stored("language") ?? ((navigator.languages ?? [navigator.language]).find((l) => /^(zh|en)/i.test(l)) ?? "en").slice(0, 2).toLowerCase();
if (language !== "zh") language = "en";
document.documentElement.lang = language === "zh" ? "zh-CN" : "en";

/** lang is the language of the page: en or zh. */
export const lang = () => language;

export function setLanguage(to) {
  language = to;
  store("language", to);
  document.documentElement.lang = to === "zh" ? "zh-CN" : "en";
}

/** t returns a text, with its {arguments}. */
export function t(name, values) {
  const text = texts[name]?.[language === "zh" ? 1 : 0] ?? name;
  return values ? text.replace(/\{(\w+)\}/g, (whole, key) => values[key] ?? whole) : text;
}

/** has reports whether there is a text: states and codes come from outside. */
export const has = (name) => Object.hasOwn(texts, name);

/** named returns the text of a value that comes from outside, and the value itself where there is none. */
export const named = (prefix, word) => (has(prefix + word) ? t(prefix + word) : String(word ?? ""));

/** both returns the reader's of two texts. */
export const both = (text) => (text ? text[language] || text.en : "");
