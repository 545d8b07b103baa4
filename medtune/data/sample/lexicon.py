"""The medical words the sample is written with, and which of them are kept out of training.

Every list holds common words of the trade, one kind each, and no word appears in two lists. About 15 % of
each list is *new*: those words appear in ``test_new_words`` and in no other file, so that a score on that
split says whether a model copies what it reads or only repeats words it has memorised. Which words are new
depends on the words alone, never on a seed: data generated with any seed can be scored on any other's
``test_new_words``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from hashlib import blake2b

NEW_WORD_SHARE = 0.15

# "standard term=what a patient or a hurried note calls it". The second is the raw side of CHIP-CDN.
DISEASES = """
高血压病=血压高 糖尿病=血糖高 冠心病=冠状动脉供血不足 心绞痛=心口绞痛发作 心肌梗死=心梗 心律失常=心跳不齐
心力衰竭=心衰 心肌炎=心脏肌肉发炎 脑梗死=脑梗 脑出血=脑溢血 癫痫=羊角风 帕金森病=震颤麻痹 偏头痛=半边头疼
面神经麻痹=面瘫 三叉神经痛=脸部神经疼 阿尔茨海默病=老年痴呆 慢性支气管炎=老慢支 支气管哮喘=哮喘 肺炎=肺部感染
肺结核=肺痨 肺气肿=肺部过度充气 肺栓塞=肺动脉堵塞 胸膜炎=胸膜发炎 气胸=胸腔漏气 慢性咽炎=嗓子慢性发炎
扁桃体炎=扁桃体发炎 鼻窦炎=鼻窦发炎 过敏性鼻炎=鼻子过敏 中耳炎=耳内发炎 突发性耳聋=突聋 慢性胃炎=老胃病
胃溃疡=胃部溃烂 十二指肠溃疡=十二指肠球部溃烂 反流性食管炎=胃酸反流 急性胃肠炎=吃坏肚子 溃疡性结肠炎=溃结
肠易激综合征=肠道敏感 阑尾炎=盲肠炎 肠梗阻=肠子不通 胆囊炎=胆囊发炎 胆结石=胆石症 胰腺炎=胰腺发炎
脂肪肝=肝脏脂肪多 肝硬化=肝脏变硬 乙型肝炎=乙肝 甲型肝炎=甲肝 痔疮=痔 肛裂=肛门裂口 肾结石=肾里有石头
肾盂肾炎=肾盂发炎 肾病综合征=肾综 尿毒症=终末期肾病 膀胱炎=膀胱发炎 尿道炎=尿道发炎 前列腺炎=前列腺发炎
前列腺增生=前列腺肥大 缺铁性贫血=缺铁贫血 白血病=血癌 血友病=凝血因子缺乏 血小板减少症=血小板低
甲状腺功能亢进症=甲亢 甲状腺功能减退症=甲减 甲状腺结节=甲状腺长结 痛风=高尿酸关节痛 高脂血症=血脂高
肥胖症=体重严重超标 骨质疏松症=骨头疏松 骨关节炎=关节退变 类风湿关节炎=类风关 强直性脊柱炎=强直
颈椎病=颈椎毛病 腰椎间盘突出症=腰突 肩周炎=五十肩 滑膜炎=滑膜发炎 股骨头坏死=股骨头缺血 系统性红斑狼疮=狼疮
干燥综合征=口眼干燥病 湿疹=湿毒疹 荨麻疹=风团 银屑病=牛皮癣 白癜风=皮肤白斑病 痤疮=青春痘 带状疱疹=缠腰龙
手足癣=脚气 玫瑰糠疹=玫瑰疹 脂溢性皮炎=头皮出油发炎 白内障=晶状体混浊 青光眼=眼压高 结膜炎=红眼病
干眼症=眼睛干涩病 麦粒肿=针眼 近视=看远不清 视网膜脱离=网脱 龋齿=蛀牙 牙周炎=牙周发炎 口腔溃疡=口疮
水痘=出水花 麻疹=出疹热 风疹=三日疹 手足口病=手足口 流行性腮腺炎=痄腮 百日咳=鸡咳 猩红热=烂喉痧
流行性感冒=流感 疟疾=打摆子 细菌性痢疾=菌痢 伤寒=肠热病 狂犬病=恐水病 破伤风=锁口风 艾滋病=获得性免疫缺陷
梅毒=杨梅疮 子宫肌瘤=子宫长瘤 子宫内膜异位症=内异症 多囊卵巢综合征=多囊 卵巢囊肿=卵巢水泡 宫颈炎=宫颈发炎
阴道炎=阴道发炎 盆腔炎=盆腔发炎 乳腺增生=乳房小叶增生 宫外孕=异位妊娠 妊娠期糖尿病=怀孕血糖高 小儿疝气=小孩疝
新生儿黄疸=新生儿皮肤发黄 佝偻病=缺钙软骨病 肺癌=肺部恶性肿瘤 胃癌=胃部恶性肿瘤 肝癌=肝脏恶性肿瘤
乳腺癌=乳房恶性肿瘤 食管癌=食管恶性肿瘤 淋巴瘤=淋巴恶性肿瘤 焦虑症=过度焦虑 抑郁症=情绪低落病 失眠症=睡不着觉
精神分裂症=精分 静脉曲张=腿上青筋 动脉硬化=血管变硬 深静脉血栓=深静脉堵塞 低血糖症=血糖低 脑膜炎=脑膜发炎
败血症=血液感染 蜂窝织炎=皮下组织发炎 腱鞘炎=腱鞘发炎
"""

SYMPTOMS = """
头痛 头晕 发热 畏寒 寒战 盗汗 乏力 消瘦 食欲不振 恶心 呕吐 反酸 烧心 嗳气 腹痛 腹胀 腹泻 便秘 便血 黑便
里急后重 咳嗽 咳痰 咯血 胸闷 胸痛 气短 呼吸困难 喘息 鼻塞 流涕 打喷嚏 鼻出血 咽痛 声音嘶哑 吞咽困难 耳鸣
听力下降 耳痛 眼干 眼痒 视物模糊 畏光 流泪 复视 心慌 晕厥 下肢水肿 面部浮肿 尿频 尿急 尿痛 血尿 尿失禁
夜尿增多 少尿 泡沫尿 腰酸 背痛 关节肿胀 晨僵 肌肉酸痛 手脚麻木 抽筋 肢体无力 步态不稳 手抖 嗜睡 失眠多梦
记忆减退 烦躁 情绪低落 皮疹 瘙痒 脱皮 红斑 水疱 皮肤发黄 脱发 口干 口苦 口臭 牙龈出血 牙痛 口腔异味 月经推迟
痛经 白带增多 阴道出血 乳房胀痛 潮热 体重下降 多饮 多尿 多食 淋巴结肿大 脖子僵硬 肩膀酸痛 脚后跟疼 膝盖疼 打嗝
腹部包块 肛门瘙痒 排便不尽 大便干结 大便带黏液 食后饱胀 胃部隐痛 意识模糊 抽搐 言语不清 口角歪斜 眩晕 面色苍白
牙关紧闭 咽部异物感 痰中带血 夜间憋醒
"""

DRUGS = """
阿司匹林 布洛芬 对乙酰氨基酚 阿莫西林 头孢克肟 头孢呋辛 左氧氟沙星 阿奇霉素 克拉霉素 甲硝唑 奥硝唑 青霉素
红霉素 罗红霉素 利福平 异烟肼 乙胺丁醇 奥司他韦 阿昔洛韦 利巴韦林 恩替卡韦 拉米夫定 氟康唑 伊曲康唑 特比萘芬
二甲双胍 格列美脲 阿卡波糖 胰岛素 硝苯地平 氨氯地平 缬沙坦 厄贝沙坦 卡托普利 美托洛尔 比索洛尔 螺内酯 呋塞米
氢氯噻嗪 硝酸甘油 阿托伐他汀 瑞舒伐他汀 氯吡格雷 华法林 利伐沙班 肝素 地高辛 胺碘酮 奥美拉唑 雷贝拉唑 铝碳酸镁
多潘立酮 莫沙必利 蒙脱石散 双歧杆菌 乳果糖 开塞露 熊去氧胆酸 多烯磷脂酰胆碱 沙丁胺醇 布地奈德 孟鲁司特 氨茶碱
氨溴索 右美沙芬 氯雷他定 西替利嗪 扑尔敏 泼尼松 地塞米松 甲泼尼龙 甲氨蝶呤 羟氯喹 来氟米特 塞来昔布 双氯芬酸钠
秋水仙碱 别嘌醇 非布司他 碳酸钙 维生素丁 骨化三醇 阿仑膦酸钠 左甲状腺素 甲巯咪唑 硫酸亚铁 叶酸 甲钴胺 卡马西平
丙戊酸钠 左旋多巴 多奈哌齐 舍曲林 帕罗西汀 艾司唑仑 佐匹克隆 坦索罗辛 非那雄胺 黄体酮 米非司酮 炉甘石洗剂
莫匹罗星 糠酸莫米松 他克莫司 氯霉素滴眼液 玻璃酸钠 板蓝根 连花清瘟 藿香正气水 六味地黄丸 逍遥丸 牛黄解毒片
复方丹参滴丸 速效救心丸 云南白药 金银花露
"""

EXAMS = """
血常规 尿常规 大便常规 肝功能 肾功能 空腹血糖 餐后血糖 糖化血红蛋白 甘油三酯 总胆固醇 低密度脂蛋白 血尿酸
血肌酐 尿素氮 转氨酶 总胆红素 白蛋白 血红蛋白 白细胞计数 血小板计数 血沉 反应蛋白 降钙素原 类风湿因子 抗核抗体
凝血时间 血气分析 电解质 血淀粉酶 肌钙蛋白 心肌酶谱 促甲状腺激素 游离甲状腺素 甲胎蛋白 癌胚抗原 乙肝五项
幽门螺杆菌呼气试验 结核菌素试验 痰培养 尿培养 血培养 大便潜血 心电图 动态心电图 心脏彩超 胸片 胸部平扫
头颅磁共振 腰椎磁共振 腹部彩超 甲状腺彩超 乳腺钼靶 妇科彩超 骨密度 肺功能 脑电图 肌电图 胃镜 肠镜 支气管镜
喉镜 膀胱镜 阴道镜 眼底照相 眼压测量 视力筛查 听力测试 过敏原筛查 性激素六项 精液分析 唐氏筛查 糖耐量试验
骨髓象 脑脊液化验 血压监测 皮肤镜
"""

BODY_PARTS = """
头皮 额部 眼眶 眼球 角膜 耳廓 鼓膜 鼻腔 鼻中隔 口唇 舌根 牙龈 咽喉 声带 颈部 锁骨 肩胛 腋窝 上臂 肘窝 前臂
手腕 手掌 指尖 胸壁 乳头 肋骨 纵隔 气管 肺门 左肺上叶 右肺下叶 胸膜腔 心包 左心室 右心房 二尖瓣 主动脉 颈动脉
肺静脉 食管下段 贲门 胃窦 胃底 空肠 回盲部 升结肠 直肠 肛管 肝左叶 肝右叶 胆总管 胰头 脾脏 肾盂部 输尿管
膀胱壁 尿道口 子宫颈 输卵管 卵巢 睾丸 附睾 骨盆 腹股沟 大腿 膝关节 小腿 跟腱 足背 脚趾 脊髓 小脑 海马区 额叶
颞叶 脑干
"""

PROCEDURES = """
冠脉支架植入 心脏搭桥 射频消融 起搏器植入 腹腔镜切除 阑尾切除 胆囊切除 胃大部切除 甲状腺切除 子宫切除 剖宫产
清宫术 椎间盘摘除 关节置换 骨折复位 石膏固定 骨髓移植 肾移植 肝移植 角膜移植 血液透析 腹膜透析 化疗 放疗
靶向治疗 免疫治疗 输血 静脉输液 雾化吸入 气管插管 胸腔闭式引流 导尿 灌肠 洗胃 鼻饲 穿刺活检 激光治疗 冷冻治疗
光动力治疗 针灸 推拿 拔罐 理疗 牵引 康复训练 根管治疗 拔牙 洗牙 种植牙 疫苗接种 皮试 换药 缝合 清创 高压氧治疗
介入栓塞
"""

DEVICES = """
呼吸机 监护仪 除颤仪 起搏器 血糖仪 血压计 体温计 听诊器 雾化器 制氧机 输液泵 胰岛素泵 麻醉机 超声刀 电凝刀
内窥镜 导尿管 胃管 引流管 留置针 支架 人工关节 助听器 轮椅 拐杖 腰围 颈托 护膝 弹力袜 透析机 吸痰器 氧气面罩
手术显微镜 碎石机
"""

DEPARTMENTS = """
心内科 呼吸科 消化科 神经内科 肾内科 内分泌科 血液科 风湿科 普外科 骨科 神经外科 泌尿外科 胸外科 肝胆外科 妇科
产科 儿科 新生儿科 眼科 耳鼻喉科 口腔科 皮肤科 感染科 肿瘤科 精神科 康复科 急诊科 疼痛科 中医科 乳腺外科
肛肠科 血管外科
"""

MICROBES = """
金黄色葡萄球菌 肺炎链球菌 大肠杆菌 幽门螺杆菌 结核分枝杆菌 铜绿假单胞菌 沙门氏菌 志贺菌 淋球菌 脑膜炎双球菌
白喉杆菌 破伤风梭菌 霍乱弧菌 肺炎支原体 沙眼衣原体 梅毒螺旋体 白色念珠菌 曲霉菌 隐球菌 毛癣菌 流感病毒 腺病毒
轮状病毒 诺如病毒 呼吸道合胞病毒 水痘病毒 麻疹病毒 乙肝病毒 疱疹病毒 柯萨奇病毒 狂犬病毒 登革病毒 疟原虫
阿米巴 蛔虫 血吸虫
"""


@dataclass(frozen=True, slots=True, eq=False)  # compared by identity, hence a key for caches
class Lexicon:
    """The words one split may use, by kind. ``aliases`` gives every disease its colloquial name."""

    diseases: tuple[str, ...]
    symptoms: tuple[str, ...]
    drugs: tuple[str, ...]
    exams: tuple[str, ...]
    body_parts: tuple[str, ...]
    procedures: tuple[str, ...]
    devices: tuple[str, ...]
    departments: tuple[str, ...]
    microbes: tuple[str, ...]
    aliases: dict[str, str]

    def all_words(self) -> list[str]:
        """Every word of every kind, colloquial names included."""
        kinds = [getattr(self, field.name) for field in fields(self) if field.name != "aliases"]
        return [word for kind in kinds for word in kind] + [self.aliases[name] for name in self.diseases]


@cache
def split_lexicon() -> tuple[Lexicon, Lexicon]:
    """The words known in training, and the new ones.

    A word that is part of a longer word is never new: the longer one would carry it into training.
    """
    aliases = dict(entry.split("=") for entry in DISEASES.split())
    kinds = {
        "diseases": tuple(aliases),
        "symptoms": tuple(SYMPTOMS.split()),
        "drugs": tuple(DRUGS.split()),
        "exams": tuple(EXAMS.split()),
        "body_parts": tuple(BODY_PARTS.split()),
        "procedures": tuple(PROCEDURES.split()),
        "devices": tuple(DEVICES.split()),
        "departments": tuple(DEPARTMENTS.split()),
        "microbes": tuple(MICROBES.split()),
    }
    everything = "\n".join([word for words in kinds.values() for word in words] + list(aliases.values()))
    known: dict[str, tuple[str, ...]] = {}
    new: dict[str, tuple[str, ...]] = {}
    for kind, words in kinds.items():
        apart = [
            word
            for word in words
            if everything.count(word) == 1 and everything.count(aliases.get(word, word)) == 1
        ]
        chosen = set(sorted(apart, key=_digest)[: round(NEW_WORD_SHARE * len(words))])
        known[kind] = tuple(word for word in words if word not in chosen)
        new[kind] = tuple(word for word in words if word in chosen)
    return Lexicon(**known, aliases=aliases), Lexicon(**new, aliases=aliases)


def _digest(word: str) -> bytes:
    return blake2b(word.encode(), digest_size=8).digest()
