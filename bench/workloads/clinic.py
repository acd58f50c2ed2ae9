"""What is asked in an invented hospital, in English, Vietnamese and Chinese. Nobody in it is real."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

Language = Literal["en", "vi", "zh"]
LANGUAGES: Final[tuple[Language, ...]] = ("en", "vi", "zh")
EVERY: Final = ",".join(LANGUAGES)

QUESTIONS: Final[Mapping[Language, tuple[str, ...]]] = {
    "en": (
        "A child of six has had a dry cough for three nights and no fever. What should the parents watch for at home?",
        "My father's blood pressure was 152 over 94 this morning, after coffee. Should he measure again, and when?",
        "Explain to a patient in plain words what a fasting blood sugar of 7.4 mmol/L means and what happens next.",
        "The wound on her heel is closed but warm and slightly red. Which signs mean that she must come in today?",
        "Write a short note to the night shift: stable after hip surgery, pain 3 of 10, first walk with two helpers.",
        "Which questions belong in the first talk with somebody who feels dizzy each time on standing up?",
        "He took his morning tablets twice by mistake. What do you need to know before you can advise him?",
        "How do I tell apart a cold, influenza and hay fever when all I have is a phone call?",
    ),
    "vi": (
        "Bé sáu tuổi ho khan ba đêm nay, không sốt. Ở nhà cha mẹ cần theo dõi những dấu hiệu gì?",
        "Sáng nay huyết áp của cha tôi là 152 trên 94, đo sau khi uống cà phê. Có cần đo lại không, và đo lúc nào?",
        "Hãy giải thích bằng lời dễ hiểu cho người bệnh: đường huyết lúc đói 7,4 mmol/L nghĩa là gì và bước tiếp theo?",
        "Vết thương ở gót chân đã khép miệng nhưng còn ấm và hơi đỏ. Dấu hiệu nào buộc cô ấy phải đến viện hôm nay?",
        "Viết vài dòng bàn giao cho ca đêm: ổn định sau mổ khớp háng, đau 3 trên 10, đã tập đi với hai người đỡ.",
        "Người bệnh chóng mặt mỗi khi đứng dậy. Lần hỏi bệnh đầu tiên cần những câu hỏi nào?",
        "Ông ấy lỡ uống thuốc buổi sáng hai lần. Cần biết thêm điều gì trước khi khuyên ông?",
        "Chỉ qua điện thoại, làm sao phân biệt cảm lạnh, cúm và viêm mũi dị ứng?",
    ),
    "zh": (
        "六岁的孩子干咳三夜，没有发烧。在家里父母应该注意什么？",
        "我父亲今天早上喝完咖啡后血压是152/94。需要再量一次吗？什么时候量？",
        "请用通俗的话向病人解释：空腹血糖7.4 mmol/L说明什么，下一步怎么办？",
        "她脚跟的伤口已经愈合，但摸上去发热，有点红。出现哪些情况今天必须来医院？",
        "请给夜班写几句交班：髋关节术后平稳，疼痛3分，已在两人搀扶下第一次行走。",
        "病人每次站起来都头晕，第一次问诊应该问哪些问题？",
        "他早上的药不小心吃了两次。给他建议之前还需要了解什么？",
        "只靠一通电话，怎样区分普通感冒、流感和花粉过敏？",
    ),
}

CONVERSATIONS: Final[Mapping[Language, tuple[str, ...]]] = {
    "en": (
        "Good morning. I was told yesterday that I have high blood pressure. I am 58. Where do I begin?",
        "I have a cuff at home. How often do I measure, and how do I sit while it measures?",
        "I salt everything twice. What can I change in my kitchen without losing all the taste?",
        "Is walking enough, or do I have to run? My left knee hurts on stairs.",
        "The tablets make me cough a little since last week. Should I stop taking them?",
        "I also drink two glasses of wine with dinner. Does that matter?",
        "My readings this week were 148, 144, 151 and 139. What do they tell?",
        "When would I have to call an ambulance, and not wait for the next appointment?",
        "My daughter is 30. Should she have hers measured too?",
        "Thank you. Please sum up what I do each morning and each evening.",
    ),
    "vi": (
        "Chào bác sĩ. Tôi 52 tuổi, mới biết mình bị tiểu đường tuýp hai. Tôi nên bắt đầu từ đâu?",
        "Cơm trắng là món chính nhà tôi. Mỗi bữa tôi được ăn bao nhiêu?",
        "Tôi nên đo đường huyết vào những lúc nào trong ngày?",
        "Hôm qua sau khi đi bộ tôi run tay và toát mồ hôi. Đó là gì vậy?",
        "Trái cây nào tôi ăn được, trái nào nên ăn ít?",
        "Thuốc uống trước hay sau bữa ăn thì tốt hơn?",
        "Chân tôi hay tê về đêm. Tôi cần chăm sóc bàn chân thế nào?",
        "Tuần sau tôi đi xa ba ngày. Tôi cần mang theo những gì?",
        "Khi nào thì tôi phải đến bệnh viện ngay?",
        "Cảm ơn bác sĩ. Xin tóm tắt những việc tôi cần làm mỗi ngày.",
    ),
    "zh": (
        "医生您好，我母亲七十一岁，下周做膝关节置换手术。我们要准备什么？",
        "手术前一天她可以吃饭喝水吗？",
        "她一直在吃降压药，手术当天早上还吃吗？",
        "手术以后一般几天可以下床走路？",
        "家里的浴室很滑，需要改哪些地方？",
        "她怕吃止痛药会上瘾，我应该怎么跟她解释？",
        "伤口什么情况算正常，什么情况要马上联系你们？",
        "回家以后每天要做哪些锻炼？请按早中晚说明。",
        "多久复查一次？复查时要带什么？",
        "谢谢。请把手术前后要做的事情按时间再列一遍。",
    ),
}

GUIDES: Final[Mapping[Language, tuple[str, ...]]] = {
    "en": (
        "You help the staff of an invented hospital. Answer in the language of the question.",
        "Say what you do not know. Never invent a measurement, a dose or a name.",
        "Begin with what the person should do first; reasons come after.",
        "Values outside these limits need a physician at once: systolic pressure above 180 or below 90 mmHg, pulse "
        "above 130 or below 40 a minute, oxygen below 90 %, temperature above 40 degrees, glucose below 3.0 mmol/L.",
        "A dose is given with its unit, its route and its interval, and always with: check with the pharmacy.",
        "Notes for the next shift have four parts: situation, background, what was found, what is asked for.",
        "Abbreviations are written out at their first use. Dates are day, month, year; times have 24 hours.",
        "Chest pain, sudden weakness on one side, trouble speaking and bleeding that does not stop are emergencies.",
        "To patients, write short sentences and common words. To physicians, write findings before opinions.",
        "Children's doses go by weight. Ask for the weight where it is not told.",
        "Allergies are named in the first line of every summary, also when there are none.",
        "Laboratory values are told with the normal range of the laboratory that measured them.",
    ),
    "vi": (
        "Bạn hỗ trợ nhân viên của một bệnh viện hư cấu. Hãy trả lời bằng ngôn ngữ của câu hỏi.",
        "Điều gì không biết thì nói là không biết. Không tự đặt ra kết quả đo, liều thuốc hay tên người.",
        "Nêu việc cần làm trước tiên, sau đó mới đến lý do.",
        "Cần gọi bác sĩ ngay khi: huyết áp tâm thu trên 180 hoặc dưới 90 mmHg, mạch trên 130 hoặc dưới 40, "
        "độ bão hòa oxy dưới 90 %, nhiệt độ trên 40 độ, đường huyết dưới 3,0 mmol/L.",
        "Liều thuốc luôn kèm đơn vị, đường dùng, khoảng cách giữa các lần và câu: hãy hỏi lại khoa dược.",
        "Bản bàn giao ca có bốn phần: tình trạng, bệnh sử, kết quả khám, điều cần làm tiếp.",
        "Chữ viết tắt phải viết đầy đủ ở lần đầu. Ngày ghi theo thứ tự ngày, tháng, năm.",
        "Đau ngực, yếu đột ngột nửa người, nói khó và chảy máu không cầm là tình trạng cấp cứu.",
        "Với người bệnh, hãy viết câu ngắn và từ thông dụng. Với bác sĩ, ghi kết quả trước nhận định.",
        "Liều cho trẻ em tính theo cân nặng. Nếu chưa biết cân nặng thì phải hỏi.",
        "Dòng đầu của mọi bản tóm tắt ghi dị ứng, kể cả khi không có.",
        "Kết quả xét nghiệm ghi kèm khoảng bình thường của phòng xét nghiệm đã đo.",
    ),
    "zh": (
        "你协助一家虚构医院的工作人员。请用提问所用的语言回答。",
        "不知道的事情就说不知道。不要编造检查结果、剂量或姓名。",
        "先说首先应该做什么，再说原因。",
        "出现下列情况要立即找医生：收缩压高于180或低于90毫米汞柱，脉搏每分钟超过130次或少于40次，血氧低于90%，"
        "体温高于40度，血糖低于3.0 mmol/L。",
        "写剂量时要写明单位、给药途径和间隔，并注明：请与药房核对。",
        "交班记录分四部分：目前情况、病史、检查所见、需要做的事。",
        "缩写第一次出现时写出全称。日期按年、月、日书写，时间用二十四小时制。",
        "胸痛、突然一侧无力、说话困难、止不住的出血都属于急症。",
        "写给病人的话要短，用常见的词；写给医生的话先写所见，再写判断。",
        "儿童剂量按体重计算，没有体重就先问。",
        "每份小结的第一行写过敏史，没有过敏也要写。",
        "化验结果要附上该化验室的正常范围。",
    ),
}


def chosen(languages: str) -> tuple[Language, ...]:
    """Of names with commas between them. Raises `ValueError` for one that is no language of this module."""
    by_name: Mapping[str, Language] = {language: language for language in LANGUAGES}
    try:
        return tuple(by_name[name.strip()] for name in languages.split(","))
    except KeyError as unknown:
        raise ValueError(f"there is no language {unknown}: {EVERY}") from None
