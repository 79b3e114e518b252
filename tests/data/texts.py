"""A little English to tokenise."""

import pydoc_data.topics

TOPICS = [text for _, text in sorted(pydoc_data.topics.topics.items())]


def write_corpus(folder, number=12):
    """Writes Python's manual as files of paragraphs; returns the paragraphs in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paragraphs = []
    for i, topic in enumerate(TOPICS[:number]):
        (folder / f"{i:03}.txt").write_text(topic, encoding="utf-8")
        paragraphs += [
            " ".join(line.strip() for line in paragraph.split("\n")).strip()
            for paragraph in topic.split("\n\n")
        ]
    return [paragraph for paragraph in paragraphs if paragraph]
