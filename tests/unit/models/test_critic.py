"""The critic: each latent is seen alone, the head's depth follows the mid-block, and clean latents have a timestep to be seen at."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from tests.tiny import SHAPE

from fewstep.models.critic import Backbone, Critic, head
from fewstep.models.miniature import build_unet
from fewstep.models.prompt import Prompt, time_ids


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return build_unet(SHAPE).eval()


def prompts(count: int) -> Prompt:
    torch.manual_seed(1)
    return Prompt(torch.randn(count, 7, sum(SHAPE.text_hidden)), torch.randn(count, SHAPE.text_hidden[1]))


def test_features_are_the_unets_own_after_its_mid_block(unet: UNet2DConditionModel) -> None:
    caught = []
    handle = unet.mid_block.register_forward_hook(lambda module, inputs, output: caught.append(output))
    x, t, prompt, ids = torch.randn(2, 4, 16, 16), torch.tensor([999, 9]), prompts(2), time_ids(2, 256, 256)
    unet(x, t, encoder_hidden_states=prompt.embeds, added_cond_kwargs={"text_embeds": prompt.pooled, "time_ids": ids})
    handle.remove()
    torch.testing.assert_close(Backbone(unet)(x, t, prompt, ids), caught[0], atol=1e-5, rtol=1e-5)


def test_a_pair_is_judged_as_two_latents_seen_apart(unet: UNet2DConditionModel) -> None:
    critic = Critic(Backbone(unet), conditional=True).eval()
    x, origin, prompt, ids = torch.randn(3, 4, 16, 16), torch.randn(3, 4, 16, 16), prompts(3), time_ids(3, 256, 256)
    t, t_origin = torch.tensor([749, 499, 249]), torch.tensor([999, 749, 499])
    apart = [critic.backbone(x, t, prompt, ids), critic.backbone(origin, t_origin, prompt, ids)]
    expected = critic.head(torch.cat(apart, dim=1)).flatten(1).mean(1)
    torch.testing.assert_close(critic(x, t, prompt, ids, (origin, t_origin)), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="began"):
        critic(x, t, prompt, ids)


def test_clean_latents_are_shown_at_the_lowest_noise_level(unet: UNet2DConditionModel) -> None:
    critic = Critic(Backbone(unet), conditional=False).eval()
    x, prompt, ids = torch.randn(2, 4, 16, 16), prompts(2), time_ids(2, 256, 256)
    assert torch.equal(critic(x, torch.tensor([-1, -1]), prompt, ids), critic(x, torch.tensor([0, 0]), prompt, ids))


def test_other_aspects_have_one_logit_too(unet: UNet2DConditionModel) -> None:
    critic = Critic(Backbone(unet), conditional=False).eval()
    assert critic(torch.randn(2, 4, 12, 21), torch.tensor([9, 9]), prompts(2), time_ids(2, 336, 192)).shape == (2,)


def test_every_head_has_a_say(unet: UNet2DConditionModel) -> None:
    """One after each level but the last, and the mid-block's; the logit is their mean, so each gets its share of the gradient."""
    critic = Critic(Backbone(unet), conditional=True, every=True)
    x, prompt, ids, t = torch.randn(2, 4, 16, 16), prompts(2), time_ids(2, 256, 256), torch.tensor([499, 9])
    critic(x, t, prompt, ids, (torch.randn_like(x), torch.tensor([999, 749]))).sum().backward()
    last = [critic.head[-1], *(finer[-1] for finer in critic.finer)]
    assert len(last) == len(unet.config.block_out_channels)
    for layer in last:  # d logit / d bias = 1 / heads for each of two samples
        torch.testing.assert_close(layer.bias.grad, torch.tensor([2 / len(last)]))


def test_the_head_is_the_papers_at_sdxls_size() -> None:
    convolutions = [layer for layer in head(1280, 1280, depth=4) if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.kernel_size for layer in convolutions] == [(4, 4)] * 4 + [(1, 1)]
    assert head(1280, 1280, depth=4)[1].num_groups == 32
