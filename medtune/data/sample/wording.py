"""Every sentence of the sample that is not a medical word: prompts, frames, dialogue turns, answers.

Frames are ``%``-formats; the letters beside them name the kind of word that fills each ``%s``
(see ``KIND_FIELDS``). All of it was written for this project; nothing is taken from a public data set,
the benchmark's own prompt templates included.
"""

from __future__ import annotations

# The letter of a frame's gap, and the field of Lexicon that fills it.
KIND_FIELDS = {
    "D": "diseases",
    "S": "symptoms",
    "R": "drugs",
    "E": "exams",
    "B": "body_parts",
    "P": "procedures",
    "V": "devices",
    "K": "departments",
    "M": "microbes",
}

# --- CMeEE-V2: entities in a sentence ------------------------------------------------------------------

ENTITY_TYPES = {
    "D": "疾病",
    "S": "临床表现",
    "P": "医疗程序",
    "V": "医疗设备",
    "R": "药物",
    "E": "医学检验项目",
    "B": "身体部位",
    "K": "医院科室",
    "M": "微生物类",
}
ENTITY_LEAD_IN = "上述句子中的实体包含："
ENTITY_NONE = "上述句子没有指定类型实体"
ENTITY_PROMPTS = (
    "{text}\n请抽取这段话里的实体，类型：{choices}",
    "读句子，按类型写出实体：{choices}\n{text}",
    "要找的实体类型：{choices}\n文本：{text}",
)
ENTITY_CLAUSES = (
    ("DS", "%s病人多伴有%s"),
    ("DE", "怀疑%s时应先查%s"),
    ("RS", "口服%s之后%s明显减轻"),
    ("MD", "%s感染是%s的常见起因"),
    ("BS", "病变累及%s并出现%s"),
    ("KP", "患者转入%s接受%s"),
    ("PV", "做%s期间需备好%s"),
    ("KE", "%s医生要求复查%s"),
    ("RE", "长期服用%s者要定期看%s"),
    ("MR", "针对%s可以选用%s"),
    ("DP", "%s进展较快时考虑%s"),
    ("MB", "%s容易侵入%s"),
    ("VD", "使用%s的多为%s病人"),
    ("SB", "查体可见%s，并触及%s异常"),
    ("DR", "%s首选药物为%s"),
    ("KD", "%s近期收治了一名%s患者"),
)

# --- KUAKE-QIC: what a query asks for ------------------------------------------------------------------

INTENT_PROMPTS = (
    "{text}\n这句提问想知道什么？可选：{choices}",
    "判断提问的意图。\n提问：{text}\n意图有：{choices}",
    "下列意图中，哪一个说中了这句话：{choices}\n{text}",
)
OPENERS = ("", "", "请问", "医生，", "想问问，", "您好，")
INTENTS = {
    "病情诊断": (
        ("S", "%s是得了哪种病"),
        ("S", "一直%s会不会是大病"),
        ("SS", "%s还有%s可能是什么病"),
        ("S", "最近%s帮我诊断一下"),
        ("D", "怎样才算确诊%s"),
    ),
    "病因分析": (
        ("D", "为什么会得%s"),
        ("D", "%s是由什么引起的"),
        ("S", "%s是什么原因造成的"),
        ("D", "得%s的原因有哪些"),
        ("S", "无缘无故%s是为什么"),
    ),
    "治疗方案": (
        ("D", "%s怎么治疗"),
        ("D", "有没有办法根治%s"),
        ("S", "%s用什么药好"),
        ("D", "%s如何医治见效快"),
        ("S", "怎样缓解%s"),
    ),
    "就医建议": (
        ("D", "%s应该挂哪个科"),
        ("S", "%s去医院看什么科室"),
        ("D", "%s哪家医院看得好"),
        ("S", "%s需要马上去医院吗"),
        ("D", "看%s要找哪科大夫"),
    ),
    "指标解读": (
        ("E", "%s偏高说明什么"),
        ("E", "%s结果偏低正常吗"),
        ("E", "帮忙看看%s的数值"),
        ("E", "%s报告上有箭头是什么意思"),
        ("E", "%s多少算正常值"),
    ),
    "疾病描述": (
        ("D", "%s是一种什么样的病"),
        ("D", "介绍一下%s这种病"),
        ("D", "什么叫做%s"),
        ("D", "%s有哪些症状表现"),
        ("D", "%s属于常见病吗"),
    ),
    "后果表述": (
        ("D", "%s不管它会怎样"),
        ("D", "%s会留下后遗症吗"),
        ("D", "%s的危害大不大"),
        ("S", "长期%s有什么后果"),
        ("D", "%s会危及生命吗"),
    ),
    "注意事项": (
        ("D", "%s患者平时要注意些什么"),
        ("R", "服用%s有哪些禁忌"),
        ("D", "得了%s不能吃哪些东西"),
        ("P", "%s之后要注意什么"),
        ("E", "查%s之前要空腹吗"),
    ),
    "功效作用": (
        ("R", "%s有什么作用"),
        ("R", "%s的功效是哪些"),
        ("R", "吃%s有什么好处"),
        ("R", "%s主要是管什么的"),
        ("P", "%s的作用是什么"),
    ),
    "医疗费用": (
        ("E", "查一次%s多少钱"),
        ("P", "%s的费用要多少"),
        ("D", "治%s大概花多少钱"),
        ("R", "一盒%s是什么价格"),
        ("P", "做%s医保能报销多少"),
    ),
}

# --- KUAKE-QQR: how the second query relates to the first ----------------------------------------------

SAME, NARROWER, WIDER, UNRELATED = (
    "完全一致",
    "后者是前者的语义子集",
    "后者是前者的语义父集",
    "语义无直接关联",
)
RELATIONS = (SAME, NARROWER, WIDER, UNRELATED)
RELATION_PROMPTS = (
    "前者：{first}\n后者：{second}\n两句搜索词的关系，可选：{choices}",
    "先问“{first}”，又问“{second}”，后一句同前一句比：\n{choices}",
    "从{choices}里选一个来说明两句话的关系\n一：{first}\n二：{second}",
)
# All the frames of one topic share a word, as real paraphrases of short queries mostly do.
TOPICS = (
    ("%s怎么治疗", "%s的治疗方法", "如何治疗%s"),
    ("%s是什么原因", "引起%s的原因", "%s的原因有哪些"),
    ("%s有什么症状", "%s的症状是什么", "出现%s有哪些症状"),
    ("%s吃什么食物好", "适合%s的食物", "%s推荐哪些食物"),
    ("%s要做哪些检查", "%s的检查项目", "查%s做什么检查"),
    ("%s会传染吗", "%s的传染性强不强", "得了%s传染别人吗"),
    ("怎样预防%s", "%s的预防措施", "%s能预防吗"),
    ("看%s要多少费用", "%s的费用是多少", "治%s得多少费用"),
)
# Who the query is about: adding one of these narrows it.
QUALIFIERS = ("儿童", "孕妇", "老年人", "婴儿", "青少年", "中年男性", "哺乳期妇女", "大学生")

# --- CHIP-CDN: the standard name behind a note's wording -----------------------------------------------

NAME_NONE = "没有对应的标准化实体"
NAME_PROMPTS = (
    "病历写法：{text}\n对应哪个标准名称？候选：{choices}",
    "把“{text}”改成规范的诊断名称，候选：{choices}",
    "候选名称：{choices}\n诊断原文“{text}”应归到哪一个",
)
RAW_PREFIXES = (
    "", "", "考虑", "疑似", "复发性", "重度", "轻度", "双侧", "左侧", "右侧", "继发性", "反复", "确诊",
    "家族性", "既往", "早期", "晚期", "未控制的",
)  # fmt: skip
RAW_SUFFIXES = (
    "", "", "待查", "（术后）", "急性发作", "恢复期", "Ⅰ期", "Ⅱ期", "Ⅲ期", "（轻型）", "（重型）", "可能",
    "伴感染", "三年", "半年余", "观察", "复诊", "加重",
)  # fmt: skip
RAW_JOINTS = ("伴", "合并", "，", "+", "及")

# --- IMCS-V2-SR: which symptoms a patient has ----------------------------------------------------------

HAS_NOT, HAS, UNKNOWN = (
    "没有患有该症状",
    "患有该症状",
    "无法根据上下文确定病人是否患有该症状",
)
STATUSES = (HAS_NOT, HAS, UNKNOWN)
STATUS_LEAD_IN = "当前对话中的症状及其阴阳性判断为："
STATUS_PROMPTS = (
    "{text}\n写出对话提到的症状并判断病人有没有，判断只能是：{choices}",
    "对话：\n{text}\n逐个症状给出判断，可选：{choices}",
    "症状判断，可选：{choices}\n{text}",
)
# What opens a dialogue, by what it tells of the symptom.
STATUS_OPENINGS = {
    HAS: ("最近老是%s", "孩子从昨天起%s", "我%s好几天了", "这阵子%s得厉害"),
    HAS_NOT: ("来复查，已经不再%s了", "吃完药%s就消失了", "上次说的%s现在没有了"),
    UNKNOWN: ("想了解%s一般怎么回事", "网上说会%s，是真的吗", "听说这病容易%s"),
}
STATUS_QUESTIONS = ("有没有%s？", "会%s吗？", "出现过%s没有？", "平时%s吗？")
STATUS_ANSWERS = {
    HAS: ("有的", "有，挺明显", "嗯，有一点", "是的，经常"),
    HAS_NOT: ("没有", "没有，都正常", "这个没有", "不会"),
    UNKNOWN: ("不清楚", "没留意", "说不好", "记不得了"),
}

# --- MedDG: the doctor's next turn ---------------------------------------------------------------------

REPLY_PROMPTS = (
    "{text}\n请接着写医生的回复",
    "问诊记录：\n{text}\n医生接下来怎么说？",
    "替医生答复最后一句：\n{text}",
)
DURATIONS = ("两天", "三天", "一周", "半个月", "一个月", "三个月", "半年")
# The patient's last words and the reply they call for; what came before fills the same gaps.
REPLY_COMPLAINTS = ("医生您好，我%s。", "大夫，最近%s。", "你好，我总是%s。")
REPLY_DURATION_QUESTION = "%s持续多长时间了？"
REPLY_COMPANION_QUESTION = "除了%s，还有哪里不舒服吗？"
REPLY_COMPANION = ("还有%s。", "有时也会%s。")
REPLY_BOTH_KNOWN = "%s和%s同时出现，建议到医院当面检查。"
# What else a patient may say last, and the reply: both take up the same word.
REPLY_SITUATIONS = (
    ("E", "医院让我查{}，还没去做。", "请尽快完成{}，拿到结果再来找我。"),
    ("E", "{}做过了，结果正常。", "既然{}没有问题，不必过分担心，多休息。"),
    ("R", "我对{}过敏，能用吗？", "过敏的话不可以用{}，换别的药。"),
    ("R", "吃了{}，没什么效果。", "{}无效就停掉，我给您重新开药。"),
    ("R", "{}一天吃几次？", "{}每日两次，饭后服用即可。"),
    ("D", "查出来是{}，饮食上怎么办？", "得了{}应当少油少盐，忌烟酒和辛辣。"),
    ("D", "会不会是{}？我很害怕。", "先别紧张，单凭这些还不能判断是{}。"),
    ("S", "好的，谢谢医生。", "不客气，祝您早日康复！"),
)

# --- turns that carry no symptom, to make dialogues as long as real ones -------------------------------

# Question, answer, and from which number to which one its gap is filled.
FILLERS: tuple[tuple[str, str, int, int], ...] = (
    ("今年多大年纪？", "今年%d岁。", 18, 79),
    ("体重大概是多少？", "%d公斤左右。", 45, 90),
    ("以前在哪里看过？", "在社区门诊看过%d次。", 1, 5),
    ("平时作息规律吗？", "经常熬夜到%d点。", 1, 3),
    ("家里有人得过类似的病吗？", "没听说，家里一共%d口人。", 3, 7),
    ("做什么工作的？", "在工厂上班，做了%d年。", 2, 30),
    ("烟酒方面的情况讲一下。", "每天抽%d支烟，不喝酒。", 5, 20),
    ("病历和化验单带来了吗？", "带了，一共%d张，我拍照发给您。", 2, 9),
    ("照片不太清楚，麻烦重新拍一下。", "好的，稍等%d分钟。", 2, 9),
    ("这几天吃饭怎么样？", "一天吃%d顿，胃口一般。", 1, 4),
    ("每天喝多少水？", "大约%d杯。", 3, 9),
    ("离医院远不远？", "坐车%d分钟就到。", 5, 90),
    ("最近有没有出远门？", "%d号刚从外地回来。", 1, 28),
    ("睡眠好不好？", "一晚上睡%d个小时。", 4, 9),
    ("家里有几个孩子？", "%d个，都在上学。", 1, 4),
    ("上次复诊是什么时候？", "上个月%d号。", 1, 28),
    ("运动习惯怎么样？", "每周散步%d次，每次走半个小时左右。", 1, 6),
    ("我先看一下之前的记录，请稍等。", "不着急，我等您%d分钟没问题。", 5, 30),
    ("有没有医保？", "有的，去年开始交的，交了%d个月。", 6, 36),
    ("您是替自己问还是替家人问？", "替家里人问，老人今年%d岁了，不会用手机。", 66, 88),
)

# --- documents of the pretraining corpus ---------------------------------------------------------------

DOCUMENT_SENTENCES = (
    ("DS", "%s的病人往往先感到%s，容易被忽视。"),
    ("DSS", "%s常见的表现有%s与%s，程度因人而异。"),
    ("DE", "诊断%s时，%s是重要的依据。"),
    ("DEE", "对疑似%s的患者，医生一般会安排%s和%s。"),
    ("DR", "%s可以在医生指导下使用%s。"),
    ("RS", "%s能够减轻%s，但不宜自行加量。"),
    ("DK", "出现%s的迹象，可到%s就诊。"),
    ("DP", "药物控制不佳的%s，必要时进行%s。"),
    ("MD", "%s是引起%s的病原之一。"),
    ("MB", "%s可以寄居在%s。"),
    ("PV", "进行%s的时候，护士会准备%s。"),
    ("DB", "%s有时会影响%s。"),
    ("D", "%s患者应当规律作息，清淡饮食，按时复诊。"),
    ("D", "%s并不可怕，早发现、早治疗，多数可以得到控制。"),
    ("RE", "使用%s期间，每隔一段时间应检测%s。"),
    ("KV", "%s病房里常备有%s。"),
)
