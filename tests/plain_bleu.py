"""BLEU and TER as the scripts behind published WebNLG numbers compute them, written down once more, plainly and by themselves.

`challenge_bleu`   the challenge's evaluation.py and multi-bleu.perl -lc
`lora_bleu`        LoRA's gpt2_decode.py --tokenize --lower --ref_num 6 and multi-bleu-detok.perl
`pyter_rate`       pyter3's ter
"""

import math
import re
from collections import Counter
from itertools import product

from unidecode import unidecode


def ngrams(words, n):
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def multi_bleu(hypotheses, columns):
    """multi-bleu.perl: *columns* are its files of references, lines without their ends."""
    correct, total, length, reference_length = [0] * 5, [0] * 5, 0, 0
    for row, hypothesis in enumerate(hypotheses):
        words, references = hypothesis.split(), [column[row].split() for column in columns]
        length += len(words)
        reference_length += min((abs(len(words) - len(one)), len(one)) for one in references)[1]
        for n in range(1, 5):
            most = Counter()
            for one in references:
                most |= ngrams(one, n)
            total[n] += sum(ngrams(words, n).values())
            correct[n] += sum((ngrams(words, n) & most).values())
    if not all(correct[1:]):
        return 0.0
    brevity = 1 if length >= reference_length else math.exp(1 - reference_length / length)
    return 100 * brevity * math.exp(sum(math.log(correct[n] / total[n]) for n in range(1, 5)) / 4)


def challenge_bleu(lines, references):
    """*lines* of a team's file; *references* of each input."""
    outputs = [unidecode(line.strip()) for line in lines]
    team = []
    for item in outputs:
        text = " ".join(re.split(r"(\W)", unidecode(item.lower())))
        team.append(" ".join(text.split()))
    columns = []
    for j in range(min(3, max(map(len, references)))):
        column = []
        for lexs in references:
            try:
                text = " ".join(re.split(r"(\W)", lexs[j]))
                text = " ".join(text.split())
                column.append(unidecode(text.lower()))
            except IndexError:
                column.append("")
        columns.append(column)
    return multi_bleu([line.lower() for line in team], [[line.lower() for line in column] for column in columns])


def tokens_13a(text):
    """The function ``tokenization`` of multi-bleu-detok.perl."""
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    text = text.replace("&quot;", '"').replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
    text = f" {text} "
    text = re.sub(r"([{-~\[-` -&(-+:-@/])", r" \1 ", text)
    text = re.sub(r"([^0-9])([.,])", r"\1 \2 ", text)
    text = re.sub(r"([.,])([^0-9])", r" \1 \2", text)
    text = re.sub(r"([0-9])(-)", r"\1 \2 ", text)
    return " ".join(text.split())


def lora_bleu(lines, references):
    def prepared(text):
        return tokens_13a(" ".join(" ".join(re.split(r"(\W)", text.strip().lower())).split()))

    columns = [[prepared(one[j] if len(one) > j else one[0]) for one in references] for j in range(6)]
    return multi_bleu([prepared(line) for line in lines], columns)


def distance(a, b):
    table = {(i, j): i + j for i in range(len(a) + 1) for j in range(len(b) + 1) if not i * j}
    for i, j in product(range(1, len(a) + 1), range(1, len(b) + 1)):
        same = a[i - 1] == b[j - 1]
        table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (not same))
    return table[len(a), len(b)]


def pyter_rate(words, reference):
    """pyter3's ter."""
    shifts = 0
    while True:
        before, tried = distance(words, reference), []
        for i, j in product(range(len(words)), range(len(reference))):
            if i != j and words[i] == reference[j]:
                length = 1
                while words[i : i + length + 1] == reference[j : j + length + 1] and i + length < len(words):
                    length += 1
                length = min(length, len(words) - i, len(reference) - j)
                other = words[:i] + words[i + length :]
                other[j:j] = words[i : i + length]
                tried.append((before - distance(other, reference), other))
        saved, other = max(tried, default=(0, words))
        if saved <= 0:
            return (shifts + before) / len(reference)
        words, shifts = other, shifts + 1
