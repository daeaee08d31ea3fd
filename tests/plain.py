"""Every method once more, in plain PyTorch and slowly: what the plugin is compared with. Uses nothing of the plugin.

A method is an object with a `gradient` and, for BAR, a `balance`; `train` makes updates of SGD with it. What it trains on is an
objective: `OfCriterion`, fairseq's own criterion, or `OfLosses`, the formula of a criterion's paper.
"""

import copy

import torch


def trainable(model):
    return [p for p in model.parameters() if p.requires_grad]


def summed_loss(model, criterion, samples):
    """Sum of the stock criterion's losses over the samples, and the sum of its sample sizes."""
    results = [criterion(model, sample)[:2] for sample in samples]
    return sum(loss for loss, _ in results), sum(size for _, size in results)


def gradients(loss, model):
    """One for each trainable parameter; zeros for those that the loss does not depend on."""
    params = trainable(model)
    grads = torch.autograd.grad(loss, params, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(params, grads)]


def epsilon(model, loss, rho, adaptive=False, eta=0.01):
    """ε* for a loss at the model's weights (Foret et al. 2021, Eq. 2; adaptive: Kwon et al. 2021, Eq. 9)."""
    params = trainable(model)
    grads = gradients(loss, model)
    scales = [p.detach().abs() + eta if adaptive else torch.ones_like(p) for p in params]
    norm = torch.cat([(t * g).reshape(-1) for t, g in zip(scales, grads)]).norm()
    return [rho * t**2 * g / norm for t, g in zip(scales, grads)]


def shifted(model, change):
    """A copy of the model at its weights plus *change*."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p, d in zip(trainable(other), change):
            p.add_(d)
    return other


def single_sentences(sample, pad):
    """The sentences of a translation sample, or the lines of a language model's, each a sample of its own without padding."""
    for i in range(sample["target"].size(0)):
        inputs = sample["net_input"]
        length = int(inputs["src_lengths"][i])
        target_length = int(sample["target"][i].ne(pad).sum())
        if "prev_output_tokens" not in inputs:
            tokens = {"src_tokens": inputs["src_tokens"][i : i + 1, :length], "src_lengths": inputs["src_lengths"][i : i + 1]}
            target = sample["target"][i : i + 1, :length]
            yield {"net_input": tokens, "target": target, "ntokens": target_length, "nsentences": 1}
            continue
        yield {
            "net_input": {
                "src_tokens": inputs["src_tokens"][i : i + 1, -length:],  # left-padded
                "src_lengths": inputs["src_lengths"][i : i + 1],
                "prev_output_tokens": inputs["prev_output_tokens"][i : i + 1, :target_length],
            },
            "target": sample["target"][i : i + 1, :target_length],
            "ntokens": target_length,
            "nsentences": 1,
        }


def sentence_losses(model, criterion, samples):
    """The stock criterion's loss of every sentence, computed one by one."""
    pad = criterion.padding_idx
    return torch.stack([criterion(model, one)[0] for sample in samples for one in single_sentences(sample, pad)])


def inverse_weights(a):
    """Of ``--dsam-weights inverse``."""
    values = [1 / (abs(x) + sum(map(abs, a.tolist())) / len(a)) for x in a.tolist()]
    return torch.tensor([value / sum(values) for value in values], dtype=a.dtype)


def dsam_weights(a, beta):
    """Eq. 4-6 of the δ-SAM paper."""
    n = a.numel()
    g = a.abs() / a.abs().sum()
    r = beta * a.mean().abs() / (g * a).sum().abs()
    return (g - 1 / n) * r + 1 / n


# ---------------------------------------------------------------------- what is trained on


class OfCriterion:
    """fairseq's own criterion of translation, without dropout."""

    def __init__(self, criterion):
        self.criterion = criterion

    def total(self, model, samples, number):
        """The summed loss of the *number*-th update's samples, and what the gradient is divided by."""
        return summed_loss(model, self.criterion, samples)

    def each(self, model, samples, number):
        """(N,) losses of the sentences."""
        return sentence_losses(model, self.criterion, samples)


class OfLosses:
    """The loss of each sentence by a formula: ``losses(model, sample)`` returns (B,). Every pass of an update draws the same."""

    def __init__(self, losses, seed):
        self.losses, self.seed = losses, seed

    def total(self, model, samples, number):
        each = self.each(model, samples, number)
        return each.sum(), len(each)

    def each(self, model, samples, number):
        torch.manual_seed(self.seed + number)
        return torch.cat([self.losses(model, sample) for sample in samples])


# ---------------------------------------------------------------------- the methods


class Base:
    """The base optimizer alone."""

    def gradient(self, model, objective, samples, number):
        """Of the mean loss, where the method takes it; one tensor for each trainable parameter."""
        loss, size = objective.total(model, samples, number)
        return [g / size for g in gradients(loss, model)]

    def balance(self, model, lr):
        """What is done to the weights just before the update."""


class SAM(Base):
    """Foret et al. 2021, Algorithm 1; *interval*: plain updates in between."""

    def __init__(self, rho, adaptive=False, eta=0.01, interval=1):
        self.rho, self.adaptive, self.eta, self.interval = rho, adaptive, eta, interval

    def ascent_loss(self, model, objective, samples, number):
        return objective.total(model, samples, number)[0]

    def gradient(self, model, objective, samples, number):
        if number % self.interval:
            return super().gradient(model, objective, samples, number)
        change = epsilon(model, self.ascent_loss(model, objective, samples, number), self.rho, self.adaptive, self.eta)
        return super().gradient(shifted(model, change), objective, samples, number)


class DSAM(SAM):
    """Algorithm 1 of the δ-SAM paper.

    points: for each update ρ ε̂/‖ε̂‖₂, a tensor for each trainable parameter. It is random: whoever compares gives the other's.
    """

    def __init__(self, rho, beta, weigh=None, **options):
        super().__init__(rho, **options)
        self.weigh, self.points = weigh or (lambda a: dsam_weights(a, beta)), []  # Eq. 3-6

    def ascent_loss(self, model, objective, samples, number):
        with torch.no_grad():
            noisy = objective.each(shifted(model, self.points[number]), samples, number)
        clean = objective.each(model, samples, number)
        return (self.weigh((noisy - clean).detach()) * clean).sum()


class BAR(Base):
    """Section 4 of the BAR paper: *variant* "nbar" or "obar"; *pairs*: gives the model's pairs of sides, lists of parameters.

    decisions: +1 where the first side shrank, else -1; of all pairs, update by update.
    """

    def __init__(self, alpha, variant, pairs):
        self.alpha, self.variant, self.pairs, self.decisions = alpha, variant, pairs, []

    @torch.no_grad()
    def balance(self, model, lr):
        for x, y in self.pairs(model):
            if self.variant == "obar":
                shrinks_x = _norm(x) >= _norm(y)
            else:
                shrinks_x = _norm([p.grad for p in x]) < _norm([p.grad for p in y])
            sign = 1.0 if shrinks_x else -1.0
            for side, direction in ((x, -1), (y, 1)):
                for p in side:
                    p.mul_(1 + direction * sign * lr * self.alpha)
            self.decisions.append(sign)


def _norm(tensors):
    return torch.cat([t.reshape(-1) for t in tensors]).norm()


def lora_pairs(model):
    """B and A of every LoRA layer."""
    return [([m.lora_B], [m.lora_A]) for m in model.modules() if hasattr(m, "lora_B")]


def attention_pairs(model):
    """The queries' and the keys' projections of every attention, with their biases."""
    attentions = [m for m in model.modules() if hasattr(m, "q_proj")]
    return [([m.q_proj.weight, m.q_proj.bias], [m.k_proj.weight, m.k_proj.bias]) for m in attentions]


def train(model, objective, updates, method, lr, momentum=0.0, weight_decay=0.0, clip=0.0):
    """The state of a copy of *model* after updates of SGD with *method*; each of *updates* is a list of samples."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(trainable(model), lr=lr, momentum=momentum, weight_decay=weight_decay)
    for number, samples in enumerate(updates):
        for p, g in zip(trainable(model), method.gradient(model, objective, samples, number)):
            p.grad = g
        if clip:
            torch.nn.utils.clip_grad_norm_(trainable(model), clip)
        method.balance(model, lr)
        optimizer.step()
    return model.state_dict()


def sam_of_workers(model, objective, updates, rho, lr, momentum=0.0, together=False, lost=None):
    """The state of a copy of *model* after SAM on several workers: each climbs by its own data (m-sharpness) or all *together* by
    the mean of their gradients, and one update is made with the gradients of all.

    updates: for each update, for each worker, a list of samples.
    lost: (update, worker, "ascent" or "descent", index): there the worker's memory did not do for the sample of that index; it
        gives up the gradients of that sample and of those before it. fairseq counts the tokens of all samples but that one.
    """
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(trainable(model), lr=lr, momentum=momentum)
    for number, shares in enumerate(updates):

        def summed_gradient(at, worker, phase):
            samples = shares[worker]
            if lost and lost[:3] == (number, worker, phase):
                samples = samples[lost[3] + 1 :]
            if not samples:
                return [torch.zeros_like(p) for p in trainable(at)]
            return gradients(objective.total(at, samples, number)[0], at)

        workers = range(len(shares))
        ascents = [summed_gradient(model, worker, "ascent") for worker in workers]
        if together:
            ascents = [[sum(parts) / len(shares) for parts in zip(*ascents)]] * len(shares)
        descents = []
        for worker, ascent in zip(workers, ascents):
            norm = _norm(ascent)
            change = [rho * g / norm if norm > 0 else g for g in ascent]
            descents.append(summed_gradient(shifted(model, change), worker, "descent"))
        tokens = sum(sample["ntokens"] for samples in shares for sample in samples)
        if lost and lost[0] == number and lost[2] == "descent":
            tokens -= shares[lost[1]][lost[3]]["ntokens"]
        for p, *parts in zip(trainable(model), *descents):
            p.grad = sum(parts) / tokens
        optimizer.step()
    return model.state_dict()


# ---------------------------------------------------------------------- the criterions' papers


def symmetric_kl(first, second):
    """(B,) KL(p‖q) + KL(q‖p) of (B, C) logits."""
    p, q = (torch.distributions.Categorical(logits=logits) for logits in (first, second))
    return torch.distributions.kl_divergence(p, q) + torch.distributions.kl_divergence(q, p)


class Classifier:
    """fairseq's RoBERTa as a function of its embeddings; *head*: the name of its classification head."""

    def __init__(self, head="sentence_classification_head", pad=1):
        self.head, self.pad = head, pad

    def logits(self, model, sample, delta=0.0):
        """(B, C) with *delta* added to the embeddings."""
        tokens, encoder = sample["net_input"]["src_tokens"], model.encoder.sentence_encoder
        embedded = torch.nn.functional.embedding(tokens, encoder.embed_tokens.weight) + delta
        features = encoder(tokens, token_embeddings=embedded)["encoder_out"][0].transpose(0, 1)
        return model.classification_heads[self.head](features)

    def real(self, sample):
        """(B, T, 1), where there is a token."""
        return sample["net_input"]["src_tokens"].ne(self.pad).unsqueeze(-1)

    def shape(self, model, sample):
        return *sample["net_input"]["src_tokens"].shape, model.encoder.sentence_encoder.embed_tokens.embedding_dim

    def losses(self, logits, sample):
        """(B,) cross entropies."""
        return torch.nn.functional.cross_entropy(logits, sample["target"].view(-1), reduction="none")


class RDrop(Classifier):
    """Eq. 2-4 of the R-Drop paper: both passes' losses, and α/2 times the symmetric divergence."""

    def __init__(self, alpha):
        super().__init__()
        self.alpha = alpha

    def __call__(self, model, sample):
        inputs = {name: torch.cat([value, value]) for name, value in sample["net_input"].items()}
        both = model(**inputs, features_only=True, classification_head_name=self.head)[0]
        first, second = both.chunk(2)  # with masks of their own
        return self.losses(first, sample) + self.losses(second, sample) + self.alpha / 2 * symmetric_kl(first, second)


class R3F(Classifier):
    """The R3F paper's loss with uniform noise: λ times the symmetric divergence from the noised embeddings."""

    def __init__(self, eps, weight):
        super().__init__()
        self.eps, self.weight = eps, weight

    def __call__(self, model, sample):
        z = torch.empty(self.shape(model, sample)).uniform_(-self.eps, self.eps) * self.real(sample)
        clean, noised = self.logits(model, sample), self.logits(model, sample, z)
        return self.losses(clean, sample) + self.weight * symmetric_kl(clean, noised)


class FreeLB(Classifier):
    """Algorithm 1 of the FreeLB paper: the mean of the losses at the K points of the ascent."""

    def __init__(self, steps, step_size, init, max_norm):
        super().__init__()
        self.steps, self.step_size, self.init, self.max_norm = steps, step_size, init, max_norm

    def __call__(self, model, sample):
        real, (rows, length, width) = self.real(sample), self.shape(model, sample)
        delta = torch.empty(rows, length, width).uniform_(-1, 1) * real
        delta = delta * self.init / (real.sum((1, 2), keepdim=True) * width).sqrt()
        total = 0.0
        with torch.enable_grad():  # δ-SAM asks for losses without a gradient; the ascent takes its own
            for _ in range(self.steps):
                delta = delta.detach().requires_grad_()
                losses = self.losses(self.logits(model, sample, delta), sample)
                (gradient,) = torch.autograd.grad(losses.sum(), delta, retain_graph=True)
                delta = delta.detach() + self.step_size * gradient / gradient.norm(dim=(1, 2), keepdim=True)
                delta = delta * (self.max_norm / delta.norm(dim=(1, 2), keepdim=True)).clamp(max=1)
                total = total + losses / self.steps
        return total


class SMART(Classifier):
    """The SMART paper's smoothness-inducing regularization, Algorithm 1's inner loop; without the proximal point part."""

    def __init__(self, weight, eps, noise, step_size, steps=1):
        super().__init__()
        self.weight, self.eps, self.noise, self.step_size, self.steps = weight, eps, noise, step_size, steps

    def __call__(self, model, sample):
        delta = torch.randn(self.shape(model, sample)) * self.noise * self.real(sample)
        clean = self.logits(model, sample)
        with torch.enable_grad():
            for _ in range(self.steps):
                delta = delta.detach().requires_grad_()
                divergence = symmetric_kl(self.logits(model, sample, delta), clean.detach()).sum()
                (gradient,) = torch.autograd.grad(divergence, delta)
                delta = delta.detach() + self.step_size * gradient / gradient.abs().amax(dim=(1, 2), keepdim=True)
                delta = delta.clamp(-self.eps, self.eps)
        return self.losses(clean, sample) + self.weight * symmetric_kl(self.logits(model, sample, delta), clean)
