"""What the stand-ins for Pulumi's own plugins share: values on the wire, checks by the SDK's types, a server, an installation."""
