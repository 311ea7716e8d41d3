"""Signed requests as senders of webhooks make them, and the reason for which one is refused."""

import hashlib
import hmac

import pytest

from plugin_sdk.webhooks import WebhookRefused, verify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
PRIVATE = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
PUBLIC = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
NOW = 1614265330
BODY = b'{"test": 2432232314}'
V1 = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
V1A = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
NOISE = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="


def signed(signature=V1, *, timestamp=str(NOW), message_id=ID):
    return {"webhook-id": message_id, "webhook-timestamp": timestamp, "webhook-signature": signature}


def refusal(*arguments, **options):
    """The reason for which a webhook is refused."""
    with pytest.raises(WebhookRefused) as refused:
        verify(*arguments, **options)
    return refused.value.reason


def reason(headers, body=BODY, secrets=(SECRET,), now=NOW):
    return refusal("standard-webhooks", headers, body, secrets, now=now)


def digest(key, content):
    return hmac.new(key.encode(), content, hashlib.sha256).hexdigest()


def stripe(body=BODY, *, key=SECRET, at=NOW, form="t={t},v1={v1}"):
    return {"stripe-signature": form.format(t=at, v1=digest(key, f"{at}.".encode() + body))}
