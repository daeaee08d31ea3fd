"""SAM and δ-SAM once more, in plain PyTorch: what the plugin is compared with. Uses nothing of the plugin."""

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
    """ε* for a loss at the model's weights."""
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


def gradient_at(model, criterion, samples, change):
    """The gradient of the mean loss at the model's weights plus *change*."""
    other = shifted(model, change)
    loss, size = summed_loss(other, criterion, samples)
    return [g / size for g in gradients(loss, other)]


def single_sentences(sample, pad):
    """The sentences of a translation sample, each a sample of its own without padding."""
    for i in range(sample["target"].size(0)):
        inputs = sample["net_input"]
        length = int(inputs["src_lengths"][i])
        target_length = int(sample["target"][i].ne(pad).sum())
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


def dsam_weights(a, beta):
    """Eq. 4-6."""
    n = a.numel()
    g = a.abs() / a.abs().sum()
    r = beta * a.mean().abs() / (g * a).sum().abs()
    return (g - 1 / n) * r + 1 / n
