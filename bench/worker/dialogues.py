"""What people say in a conversation, and records to be rewritten, in English, Vietnamese and Chinese."""

from __future__ import annotations

from typing import Final

_ENGLISH: Final = (
    "Good morning. I want to plan a small vegetable garden behind the house. Where do I begin?",
    "The soil is heavy and wet in spring. What can I do about it before I plant anything?",
    "Which vegetables forgive mistakes? I have never grown any before.",
    "How far apart should the rows be, and how deep do the seeds go?",
    "My neighbor has chickens that come over the fence. How do I keep them out kindly?",
    "When do I water in summer, in the morning or in the evening, and how much?",
    "Some leaves have small holes now. What could have made them?",
    "The tomatoes grow taller than I am. Do I cut them or tie them?",
    "What do I do with so many beans that nobody can eat them in time?",
    "Thank you. Please sum up what I should do next spring, step by step.",
)
_VIETNAMESE: Final = (
    "Chào bạn. Tôi muốn nấu một bữa cơm cho sáu người vào chủ nhật. Nên bắt đầu từ đâu?",
    "Trong nhà có hai người ăn chay. Tôi nên thêm món gì để ai cũng vui?",
    "Canh chua nấu thế nào cho vừa, không quá chua và không quá ngọt?",
    "Nếu chợ không có cá tươi thì tôi thay bằng gì?",
    "Cơm thường bị nhão khi tôi nấu nhiều. Tôi làm sai ở bước nào?",
    "Rau muống xào tỏi làm sao giữ được màu xanh?",
    "Món nào có thể làm trước một ngày mà vẫn ngon?",
    "Bếp chỉ có hai chỗ nấu. Tôi nên nấu món nào trước?",
    "Cuối bữa nên có món gì nhẹ và mát?",
    "Cảm ơn bạn. Hãy viết lại thứ tự công việc từ sáng đến trưa.",
)
_CHINESE: Final = (
    "你好，我想用三天时间游览一座老城，应该怎么安排？",
    "我不喜欢人多的地方，早上几点出门比较好？",
    "从车站到城里，走路方便还是坐车方便？",
    "下雨的时候可以去哪里？",
    "当地有什么小吃值得一试？请说三样。",
    "我带着一位老人，哪些路有很多台阶？",
    "买一件小礼物送给朋友，买什么不会太重？",
    "晚上在河边散步安全吗？",
    "如果第三天还有半天空闲，你建议做什么？",
    "谢谢。请把三天的安排再简单写一遍。",
)
LANGUAGES: Final = (_ENGLISH, _VIETNAMESE, _CHINESE)

_LINES: Final = (
    ("Shelf {n}: maps of the northern coast, printed on linen, lent to the harbor office until the end of the month.",),
    ("Kệ {n}: sổ tay của người giữ vườn, bìa màu xanh, cho trường làng mượn đến cuối tháng.",),
    ("第{n}架：旧城地图，布面，借给河边的学校，月底归还。",),
)
REQUESTS: Final = (
    "Rewrite this record word for word, changing nothing:",
    "Hãy chép lại nguyên văn bản ghi này, không thay đổi gì:",
    "请把这份记录一字不改地抄写一遍：",
)


def says(person: int, turn: int) -> str:
    """What the person says at this turn; people of one language say it in their own name."""
    lines = LANGUAGES[person % len(LANGUAGES)]
    return f"[{person + 1}.{turn + 1}] {lines[turn % len(lines)]}"


def record(language: int, number: int, n_lines: int) -> str:
    """A record of so many lines that are nearly alike."""
    (line,) = _LINES[language % len(_LINES)]
    return "\n".join(line.format(n=number * n_lines + i) for i in range(1, n_lines + 1))
