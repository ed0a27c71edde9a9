"""A stand-in for the Pulumi plugin `pulumi-resource-aws`: official `aws:` tokens, by boto3, against the emulated AWS only."""
