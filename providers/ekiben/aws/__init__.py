"""The provider `aws`: S3, SageMaker, Lambda, EventBridge, CloudWatch."""
