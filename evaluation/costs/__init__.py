"""What a UNet costs: operations, bytes, seconds."""
